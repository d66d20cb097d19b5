"""`slora`: sparse tuning of the backbone gives LoRA its start."""

from collections.abc import Mapping
from typing import Any, ClassVar

from fibecfed.config import Config
from fibecfed.federation import Device, Phase, Request, ServerState, Site
from fibecfed.methods.base import TRAIN, FederatedAveraging
from fibecfed.training import TrainJob
from fibecfed.tuning import Layout, sparse_rounds, taken_over


class SLora(FederatedAveraging):
    """SLoRA (Babakniya et al. 2023): two stages, the second being fedavg-lora.

    Stage 1, the first ``sparse.rounds`` rounds: the weights that LoRA would sit on are tuned at a random
    ``sparse.density`` of their entries, the same on all devices, and the head with them; the backbone is not written,
    the change is kept beside it. Positions follow from the seed and never travel. Then the server factors the change
    by SVD, divided by alpha / r and split evenly, into LoRA, and the change itself is taken back.
    With no round of stage 1 it is fedavg-lora.

    Bytes a round and device, each way: 4 x (density x the entries of those weights, and the head) in stage 1, 4 x
    (LoRA and the head), as fedavg-lora, in stage 2. Trained: the same numbers.
    """

    name: ClassVar[str] = "slora"
    paper: ClassVar[str] = "Babakniya et al. 2023"
    trains: ClassVar[str] = "first a sparse part of the backbone's weights, then LoRA, always the head"
    sends: ClassVar[str] = "first the sparse values, then LoRA, always the head"
    tuning: ClassVar[str] = "sparse-lora"
    sections: ClassVar[frozenset[str]] = frozenset({"sparse"})

    def __init__(self, config: Config, layout: Layout) -> None:
        super().__init__(config, layout)
        self._sparse_rounds = sparse_rounds(config)

    def shared(self, state: ServerState) -> tuple[str, ...]:
        """The stage's parameters."""
        idle = ("lora_A", "lora_B") if state.round < self._sparse_rounds else ("sparse",)
        return tuple(p.name for p in self.layout if p.role not in idle)

    def finish(self, state: ServerState, phase: Phase, accumulator: Any) -> ServerState:
        """The average; after the last round of stage 1 LoRA takes over."""
        state = super().finish(state, phase, accumulator)
        if phase.name != TRAIN or state.round != self._sparse_rounds:
            return state
        tensors, kept = taken_over(state.tensors, self.layout, self.config)
        return state.replace(tensors=tensors, info={**state.info, "change_kept": kept})

    def midway(self, state: ServerState) -> ServerState:
        """In stage 2."""
        return state.replace(round=self._sparse_rounds)

    def decisions(self, site: Site, state: ServerState) -> Mapping[str, Any]:
        """How many rounds were sparse, and how much of the change LoRA could keep."""
        if not self._sparse_rounds:
            return {}
        return {"sparse_rounds": self._sparse_rounds, "change_kept": state.info.get("change_kept")}

    def job(self, device: Device, request: Request, indices: Any, **changes: Any) -> TrainJob:
        """What travels is what trains."""
        trained = dict.fromkeys(self.layout.only(request.tensors).names)
        return super().job(device, request, indices, **{"trained": trained, **changes})
