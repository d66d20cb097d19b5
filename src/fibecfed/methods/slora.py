"""`slora`: sparse tuning of the backbone gives LoRA its start."""

from collections.abc import Mapping
from typing import Any, ClassVar

from fibecfed.federation import ServerState, Site
from fibecfed.methods.base import FederatedAveraging
from fibecfed.methods.stages import Train, TrainWhatTravels
from fibecfed.tuning import sparse_rounds, taken_over


class _SparseThenLora(TrainWhatTravels):
    """After the last round of stage 1 LoRA takes over."""

    def finish(self, state: ServerState, accumulator: Any) -> ServerState:
        state = super().finish(state, accumulator)
        if state.round != sparse_rounds(self.config):
            return state
        tensors, kept = taken_over(state.tensors, self.layout, self.config)
        return state.replace(tensors=tensors, info={**state.info, "change_kept": kept})


class SLora(FederatedAveraging):
    """SLoRA (Babakniya et al. 2023): two stages, the second being fedavg-lora.

    Stage 1, the first ``sparse.rounds`` rounds: the weights that LoRA would sit on are tuned at a random
    ``sparse.density`` of their entries, the same on all devices, and the head with them. The backbone is not written,
    the change is kept beside it. Positions follow from the seed and never travel. Then the server factors the change
    by SVD, divided by alpha / r and split evenly, into LoRA, and the change itself is taken back. With no round of
    stage 1 it is fedavg-lora.

    Bytes a round and device, each way: 4 x (density x the entries of those weights, and the head) in stage 1, 4 x
    (LoRA and the head), as fedavg-lora, in stage 2. Trained: the same numbers.
    """

    name: ClassVar[str] = "slora"
    place: ClassVar[int] = 220
    paper: ClassVar[str] = "Babakniya et al. 2023"
    trains: ClassVar[str] = "first a sparse part of the backbone's weights, then LoRA, always the head"
    sends: ClassVar[str] = "first the sparse values, then LoRA, always the head"
    tuning: ClassVar[str] = "sparse-lora"
    sections: ClassVar[frozenset[str]] = frozenset({"sparse"})
    round_stage: ClassVar[type[Train]] = _SparseThenLora

    def _prepare(self) -> None:
        self._sparse_rounds = sparse_rounds(self.config)

    def shared(self, state: ServerState) -> tuple[str, ...]:
        """The stage's parameters."""
        idle = ("lora_A", "lora_B") if state.round < self._sparse_rounds else ("sparse",)
        return tuple(p.name for p in self.layout if p.role not in idle)

    def midway(self, state: ServerState) -> ServerState:
        """In stage 2."""
        return super().midway(state).replace(round=self._sparse_rounds)

    def decisions(self, site: Site, state: ServerState) -> Mapping[str, Any]:
        """How many rounds were sparse, and how much of the change LoRA could keep."""
        if not self._sparse_rounds:
            return {}
        return {"sparse_rounds": self._sparse_rounds, "change_kept": state.info.get("change_kept")}
