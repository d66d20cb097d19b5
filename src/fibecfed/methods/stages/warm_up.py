"""The warm-up: ordinary rounds until the shared model can judge difficulty (docs/method.md section 2 [D])."""

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from fibecfed.federation import (
    Aggregator,
    Device,
    InfoSpec,
    Number,
    Reply,
    Request,
    ServerState,
    TensorSpec,
    Work,
)
from fibecfed.methods.fibecfed_parts.initialization import judgement, judgements_key
from fibecfed.methods.fibecfed_parts.plan import noted
from fibecfed.methods.stages.partly_shared import PartlyShared
from fibecfed.sharing import ConsensusSum, rank_layers
from fibecfed.tasks import task_kind
from fibecfed.training import LocalResult
from fibecfed.tuning import Layout


@dataclass
class _Replies:
    mean: Aggregator
    sent: Mapping[str, Tensor]
    judgements: list[tuple[float, float]] = field(default_factory=list)  # how well the model judges, weight
    distances: list[float] = field(default_factory=list)  # how far LoRA moved
    consensus: ConsensusSum | None = None

    def note(self, reply: Reply, layout: Layout, metric: str) -> None:
        """Take what a reply says beside the tensors that are averaged."""
        weight = float(reply.info["examples"])
        if metric in reply.info:
            self.judgements.append((float(reply.info[metric]), weight))
        moved = {n: t - self.sent[n] for n, t in reply.tensors.items()}
        layers = [moved[p.name] for p in layout if p.layer is not None and p.name in moved]
        self.distances.append(sum(float(t.double().square().sum()) for t in layers) ** 0.5)
        if self.consensus is not None:
            zero = {p.name: torch.zeros(p.shape) for p in layout}
            self.consensus.fold(zero | moved, weight)


class WarmUp(PartlyShared):
    """A round of FedAvg over every layer, in which devices also say how well the model that they got judges."""

    name: ClassVar[str] = "warm-up"

    @property
    def _metric(self) -> str:
        """What messages call how well a model judges."""
        kind = task_kind(self.config)
        return kind.judged or kind.metric

    # Server half

    def due(self, state: ServerState) -> bool:
        """Until the model judges well, or as many rounds as a warm-up may take are over."""
        return super().due(state) and not self.plan.is_warm(state)

    def expected(self, state: ServerState) -> tuple[Mapping[str, TensorSpec], Mapping[str, InfoSpec]]:
        """How well the received model judges, too."""
        tensors, info = super().expected(state)
        return tensors, {**info, self._metric: Number(0, 1)}

    def accumulator(self, state: ServerState) -> _Replies:
        consensus = ConsensusSum(self.layout) if self.config.sharing.layers == "consensus" else None
        return _Replies(super().accumulator(state), state.tensors, consensus=consensus)

    def fold(self, accumulator: _Replies, reply: Reply) -> None:
        super().fold(accumulator.mean, reply)
        accumulator.note(reply, self.layout, self._metric)

    def finish(self, state: ServerState, accumulator: _Replies) -> ServerState:
        """The average; and the end of the warm-up, when it has come, with what it tells of the layers."""
        state = super().finish(state, accumulator.mean)
        weight = sum(w for _, w in accumulator.judgements)
        judged = sum(j * w for j, w in accumulator.judgements) / weight if weight else 0.0
        known = judgements_key(self.config)
        rounds = [*state.info.get(known, []), judged]
        state = noted(state, **{known: rounds})
        is_warm = task_kind(self.config).is_warm(self.config, rounds, self.plan.outputs)
        enough = self.config.warm_up.rounds is None and weight and is_warm
        if not enough and state.round < self.plan.most_warm_up:
            return state
        state = noted(state, warm_up=state.round, met=[])
        if accumulator.distances:
            state = noted(state, radius=statistics.median(accumulator.distances))
        if accumulator.consensus is not None:
            scores = accumulator.consensus.result().tolist()
            state = noted(state, layer_scores=scores, order=list(rank_layers(scores)))
        return self.plan.without_devices(state)

    # Device half

    def work(self, device: Device, request: Request) -> Work:
        """Train; where the warm-up's length is open, also try the model as it was received."""
        result: LocalResult = yield self.job(device, request)
        reply, state = self.conclude(device, request, result)
        if self.config.warm_up.rounds is None:
            judged = yield from judgement(device, device.model(request.tensors))
            reply = Reply(reply.address, reply.tensors, self.costs(device, result) | {self._metric: judged})
        return device.keep(reply, state)

    def trained(self, request: Request) -> Iterable[str]:
        """What travels, which is everything but a frozen A; and a head that stays here."""
        travelling = set(self.plan.travelling(None))
        return [p.name for p in self.layout if p.name in travelling or p.layer is None]
