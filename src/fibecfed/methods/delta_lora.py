"""`delta-lora`: the backbone's weights move along with LoRA."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from fibecfed.federation import Content, Device, Request, ServerState
from fibecfed.methods.base import FederatedAveraging
from fibecfed.methods.stages import Train
from fibecfed.training import TrainJob
from fibecfed.tuning import Layout, delta_start

_ANCHORS = {"anchor_A": "lora_A", "anchor_B": "lora_B"}


class _WeightsMove(Train):
    """LoRA and the head train; the weights follow once they move."""

    # Server half

    def request(self, state: ServerState, device: int) -> Content:
        """Once W moves also LoRA as it was when it began to, unless that was at the start."""
        tensors, info = super().request(state, device)
        if 0 < delta_start(self.config) <= state.round:
            tensors = {**tensors, **{name: state.tensors[name] for name in anchors(self.layout)}}
        return tensors, info

    def finish(self, state: ServerState, accumulator: Any) -> ServerState:
        """The average; after the last round of plain LoRA its values are where the weights begin to move."""
        state = super().finish(state, accumulator)
        if state.round != delta_start(self.config):
            return state
        moving = moving_from(state.tensors, self.layout, self.config.delta.ratio)
        return state.replace(tensors={**state.tensors, **moving})

    # Device half

    def job(self, device: Device, request: Request, indices: Any = None, **changes: Any) -> TrainJob:
        """The weights follow if the anchors came."""
        trained = dict.fromkeys(trained_of(self.layout))
        job = super().job(device, request, indices, **{"trained": trained, **changes})
        if not set(anchors(self.layout)) & set(request.tensors):
            return job
        return TrainJob(**job.__dict__ | {"tensors": {**job.tensors, **ratios(self.layout, self.config.delta.ratio)}})


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
    place: ClassVar[int] = 230
    paper: ClassVar[str] = "Zi et al. 2023"
    trains: ClassVar[str] = "as fedavg-lora; the weights under LoRA move along"
    sends: ClassVar[str] = "as fedavg-lora; down also LoRA as it was when the weights began to move"
    tuning: ClassVar[str] = "delta-lora"
    sections: ClassVar[frozenset[str]] = frozenset({"delta"})
    round_stage: ClassVar[type[Train]] = _WeightsMove

    def shared(self, state: ServerState) -> tuple[str, ...]:
        return trained_of(self.layout)

    def midway(self, state: ServerState) -> ServerState:
        """While the weights move."""
        state = super().midway(state)
        moving = moving_from(state.tensors, self.layout, self.config.delta.ratio)
        return state.replace(round=delta_start(self.config), tensors={**state.tensors, **moving})


def anchors(layout: Layout) -> tuple[str, ...]:
    """LoRA as it was when the weights began to move."""
    return tuple(p.name for p in layout if p.role in _ANCHORS)


def trained_of(layout: Layout) -> tuple[str, ...]:
    """LoRA as it is, and the head."""
    return tuple(p.name for p in layout if p.role not in (*_ANCHORS, "ratio"))


def ratios(layout: Layout, ratio: float) -> dict[str, Tensor]:
    """lambda, for each map."""
    return {p.name: torch.full((1,), ratio) for p in layout if p.role == "ratio"}


def moving_from(tensors: Mapping[str, Tensor], layout: Layout, ratio: float) -> dict[str, Tensor]:
    """The anchors at the present LoRA, and the ratio."""
    found = {}
    for name in anchors(layout):
        stem, role = name.rsplit(".move.", 1)
        found[name] = tensors[f"{stem}.{_ANCHORS[role]}.default.weight"].clone()
    return {**found, **ratios(layout, ratio)}
