"""`adalora`: ranks go where they matter."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from fibecfed.config import Config
from fibecfed.federation import (
    Aggregator,
    Content,
    Device,
    DeviceState,
    InfoSpec,
    Reply,
    Request,
    ServerState,
    Site,
    Sum,
    TensorSpec,
)
from fibecfed.methods.base import FederatedAveraging
from fibecfed.methods.stages import Shared, Train
from fibecfed.sharing.triplets import (
    Active,
    TripletImportance,
    TripletMap,
    allocate,
    cubic_budget,
    pack,
    triplet_maps,
    unpack,
)
from fibecfed.training import LocalResult, TrainJob
from fibecfed.tuning import Layout

ACTIVE, IMPORTANCE = "active", "importance"


@dataclass
class _Gathered:
    mean: Aggregator
    importance: Sum = field(default_factory=Sum)


class _PrunedRound(Train):
    """A round over the triplets that are left; the server prunes when the budget falls."""

    def __init__(self, config: Config, layout: Layout, shared: Shared, keeps_local: bool = False) -> None:
        super().__init__(config, layout, shared, keeps_local)
        self._maps = triplet_maps(layout)

    # Server half

    def _budget(self, round: int) -> int:
        settings, maps = self.config.adalora, self._maps
        first, last = sum(m.rank for m in maps), self.config.lora.rank * len(maps)
        return cubic_budget(round, self.config.federation.rounds, first, last, settings.start, settings.end)

    def _prunes(self, state: ServerState) -> bool:
        left = sum(map(len, state.info[ACTIVE]))
        return self._budget(state.round + 1) < left

    def request(self, state: ServerState, device: int) -> Content:
        tensors, info = super().request(state, device)
        active = state.info[ACTIVE]
        return pack(tensors, self._maps, active), {**info, ACTIVE: active, IMPORTANCE: self._prunes(state)}

    def expected(self, state: ServerState) -> tuple[Mapping[str, TensorSpec], Mapping[str, InfoSpec]]:
        """The triplets that are left, and their importance where some will be pruned."""
        active = state.info[ACTIVE]
        specs = {name: TensorSpec(tuple(t.shape)) for name, t in pack(state.tensors, self._maps, active).items()}
        if self._prunes(state):
            specs[IMPORTANCE] = TensorSpec((sum(map(len, active)),))
        return specs, super().expected(state)[1]

    def accumulator(self, state: ServerState) -> _Gathered:
        return _Gathered(super().accumulator(state))

    def fold(self, accumulator: _Gathered, reply: Reply) -> None:
        """Parameters are averaged, importance is summed."""
        tensors = dict(reply.tensors)
        importance = tensors.pop(IMPORTANCE, None)
        if importance is not None:
            accumulator.importance.fold({IMPORTANCE: importance.double()}, 1.0)
        super().fold(accumulator.mean, Reply(reply.address, tensors, reply.info))

    def finish(self, state: ServerState, accumulator: _Gathered) -> ServerState:
        """The averages, and of the triplets only those that the budget still allows."""
        prunes, active, budget = self._prunes(state), state.info[ACTIVE], self._budget(state.round + 1)
        state = super().finish(state, accumulator.mean)
        tensors = unpack(state.tensors, self._maps, active, self.layout)
        if prunes:
            importance = accumulator.importance.result()[IMPORTANCE].numpy()
            active = allocate(importance, active, budget)
            tensors = unpack(pack(tensors, self._maps, active), self._maps, active, self.layout)
        return state.replace(tensors=tensors, info={**state.info, ACTIVE: active})

    # Device half

    def job(self, device: Device, request: Request, indices: Any = None, **changes: Any) -> TrainJob:
        """Every triplet that is left trains. The others are 0, where they have no gradient and so stay."""
        settings, active = self.config.adalora, request.info[ACTIVE]
        whole = unpack(request.tensors, self._maps, active, self.layout)
        fields: dict[str, Any] = {"optimizer_state": self._left(self.optimizer_state(device), active)}
        if settings.orthogonality:
            fields["penalty"] = _Orthogonality(settings.orthogonality, self._maps, active)
        if request.info[IMPORTANCE]:
            fields["observer"] = TripletImportance(self._maps, active, settings.beta1, settings.beta2)
        return super().job(device, Request(request.address, whole, request.info), indices, **fields | changes)

    def _left(self, optimizer_state: Mapping[str, Tensor], active: Active) -> dict[str, Tensor]:
        """A kept optimizer's state, forgetting the triplets that were pruned since."""
        result = dict(optimizer_state)
        for m, own in zip(self._maps, active, strict=True):
            gone = torch.tensor(sorted(set(range(m.rank)) - set(own)), dtype=torch.int64)
            for name, axis in m.parts():
                for key, value in optimizer_state.items():
                    if key.startswith(f"{name}/") and value.dim() == 2:
                        result[key] = value.index_fill(axis, gone, 0)
        return result

    def conclude(self, device: Device, request: Request, result: LocalResult) -> tuple[Reply, DeviceState | None]:
        """The triplets that are left, and their importance if it was asked for."""
        trained = {name: result.tensors[name] for name in request.tensors}
        reply, state = super().conclude(device, request, replace(result, tensors=trained))
        packed = pack(reply.tensors, self._maps, request.info[ACTIVE])
        return replace(reply, tensors={**packed, **result.observed}), state


class AdaLora(FederatedAveraging):
    """AdaLoRA (Zhang et al. 2023): Delta W = P Lambda Q, and the least important triplets are pruned by and by.

    In the paper one trainer prunes by itself every few steps; devices that did so would disagree. Here the server
    allocates, once a round. A device sends, beside its parameters, the importance of each triplet over its steps
    (section 3.2). The server adds them up over the devices and keeps the best of all maps, as many as the cubic
    budget (section 3.3) allows: from ``adalora.init_rank`` to ``lora.rank`` a map in the mean. What is pruned stays
    so and no longer travels (the paper lets a triplet come back; then nothing would be saved). P, Lambda and Q are
    averaged separately; the penalty adalora.orthogonality x (||P^T P - I||^2 + ||Q Q^T - I||^2) of each map (section
    3.1) is on the triplets that are left. With init_rank = lora.rank nothing is pruned. Saved as an ordinary LoRA
    adapter, each map with its own rank.

    Trained: R (d_in + d_out + 1) over maps with R triplets left, and the head. Bytes a round and device, each way:
    4 x as many, and up 4 x the triplets in rounds after which the budget falls; which are left is in the header.
    """

    name: ClassVar[str] = "adalora"
    place: ClassVar[int] = 310
    paper: ClassVar[str] = "Zhang et al. 2023"
    trains: ClassVar[str] = "P Lambda Q of every layer, ever fewer triplets, and the head"
    sends: ClassVar[str] = "the triplets that are left, and the head; their importance"
    tuning: ClassVar[str] = "svd-lora"
    sections: ClassVar[frozenset[str]] = frozenset({"adalora"})
    round_stage: ClassVar[type[Train]] = _PrunedRound

    def init(self, tensors: Mapping[str, Tensor]) -> ServerState:
        """Every triplet is there."""
        return super().init(tensors).replace(info={ACTIVE: [list(range(m.rank)) for m in triplet_maps(self.layout)]})

    def decisions(self, site: Site, state: ServerState) -> Mapping[str, Any]:
        """The rank that each map ended with."""
        stems = [m.diagonal.split(".lora_E.")[0] for m in triplet_maps(self.layout)]
        ranks = [len(own) for own in state.info[ACTIVE]]
        return {"ranks": dict(zip(stems, ranks, strict=True))}


@dataclass(frozen=True)
class _Orthogonality:
    """The penalty on the triplets that are left; a class, so that a job with it can go to another process."""

    weight: float
    maps: Sequence[TripletMap]
    active: Active

    def __call__(self, parameters: Mapping[str, Tensor]) -> Tensor:
        total = []
        for m, own in zip(self.maps, self.active, strict=True):
            unit = torch.eye(len(own), device=parameters[m.p].device)
            p, q = parameters[m.p][:, list(own)], parameters[m.q][list(own)]
            total.append((p.T @ p - unit).square().sum() + (q @ q.T - unit).square().sum())
        return self.weight * torch.stack(total).sum()
