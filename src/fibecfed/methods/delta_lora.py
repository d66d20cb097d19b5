"""`delta-lora`: the backbone's weights move along with LoRA."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from fibecfed.config import Config
from fibecfed.federation import Device, Phase, Request, ServerState
from fibecfed.methods.base import TRAIN, FederatedAveraging
from fibecfed.training import TrainJob
from fibecfed.tuning import Layout, delta_start

_ANCHORS = {"anchor_A": "lora_A", "anchor_B": "lora_B"}


class DeltaLora(FederatedAveraging):
    """Delta-LoRA (Zi et al. 2023): after each step W <- W + lambda (alpha/r)(B' A' - B A).

    lambda is ``delta.ratio``. The weights move from round ``delta.start`` + 1 on (the paper's K steps of plain LoRA).
    From LoRA's values A_0, B_0 then on the moves add up to lambda (alpha/r)(B A - B_0 A_0), on a device as on the
    server; so W is kept as its two factors and the backbone is never written (tuning/delta_lora.py).

    Federated: mean(B A) is not mean(B) mean(A). A device's move of W ends with its round; the server's W is the one
    that follows from the averaged A and B, and the next round starts from it. Moving from the first round, B_0 is 0
    and the model is fedavg-lora's at 1 + lambda times LoRA's scale, but for the gradients. With lambda = 0 it is
    fedavg-lora. Saved as an ordinary LoRA adapter of rank 2r.

    Trained: as fedavg-lora. Bytes a round and device: up as fedavg-lora, 4 x (LoRA and the head); down the same and,
    once W moves and if ``delta.start`` is not 0, A_0 and B_0: as much as LoRA again.
    """

    name: ClassVar[str] = "delta-lora"
    paper: ClassVar[str] = "Zi et al. 2023"
    trains: ClassVar[str] = "as fedavg-lora; the weights under LoRA move along"
    sends: ClassVar[str] = "as fedavg-lora; down also LoRA as it was when the weights began to move"
    tuning: ClassVar[str] = "delta-lora"
    sections: ClassVar[frozenset[str]] = frozenset({"delta"})

    def __init__(self, config: Config, layout: Layout) -> None:
        super().__init__(config, layout)
        self._start = delta_start(config)
        self._anchors = tuple(p.name for p in layout if p.role in _ANCHORS)
        self._ratios = tuple(p.name for p in layout if p.role == "ratio")
        fixed = {*self._anchors, *self._ratios}
        self._trained = tuple(name for name in layout.names if name not in fixed)

    def shared(self, state: ServerState) -> tuple[str, ...]:
        return self._trained

    def request(self, state: ServerState, phase: Phase, device: int) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        tensors, info = super().request(state, phase, device)
        if phase.name == TRAIN and 0 < self._start <= state.round:
            tensors = {**tensors, **{name: state.tensors[name] for name in self._anchors}}
        return tensors, info

    def finish(self, state: ServerState, phase: Phase, accumulator: Any) -> ServerState:
        """The average; after the last round of plain LoRA its values are where the weights begin to move."""
        state = super().finish(state, phase, accumulator)
        if phase.name != TRAIN or state.round != self._start:
            return state
        return state.replace(tensors={**state.tensors, **self._moving(state.tensors)})

    def midway(self, state: ServerState) -> ServerState:
        """While the weights move."""
        return state.replace(round=self._start, tensors={**state.tensors, **self._moving(state.tensors)})

    def job(self, device: Device, request: Request, indices: Any, **changes: Any) -> TrainJob:
        """LoRA and the head train; the weights follow if the anchors came, or were there from the start."""
        job = super().job(device, request, indices, **{"trained": dict.fromkeys(self._trained), **changes})
        if not set(self._anchors) & set(request.tensors):
            return job
        return TrainJob(**job.__dict__ | {"tensors": {**job.tensors, **self._ratio()}})

    def _ratio(self) -> dict[str, Tensor]:
        return {name: torch.full((1,), self.config.delta.ratio) for name in self._ratios}

    def _moving(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The anchors at the present LoRA, and the ratio."""
        anchors = {}
        for name in self._anchors:
            stem, role = name.rsplit(".move.", 1)
            anchors[name] = tensors[f"{stem}.{_ANCHORS[role]}.default.weight"].clone()
        return {**anchors, **self._ratio()}
