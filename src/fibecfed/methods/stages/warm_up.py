"""The warm-up: ordinary rounds until the shared model can judge difficulty (docs/method.md section 2 [D])."""

import dataclasses
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from fibecfed.federation import (
    Aggregator,
    Device,
    InfoSpec,
    Reply,
    Request,
    ServerState,
    TensorSpec,
    Work,
)
from fibecfed.methods.fibecfed_parts.initialization import judgements_key
from fibecfed.methods.fibecfed_parts.plan import noted
from fibecfed.methods.stages.partly_shared import PartlyShared
from fibecfed.sharing import ConsensusSum, rank_layers
from fibecfed.tasks import task_kind
from fibecfed.training import LocalResult
from fibecfed.tuning import Layout

JUDGED = "judged"  # in a reply: (2, G) the scores of each of the task's groups, summed, and its examples


@dataclass
class _Replies:
    mean: Aggregator
    sent: Mapping[str, Tensor]
    judged: np.ndarray  # (2, G) what devices say of how well the model judges, summed
    distances: list[float] = field(default_factory=list)  # how far LoRA moved
    consensus: ConsensusSum | None = None

    def note(self, reply: Reply, layout: Layout) -> None:
        """Take what a reply says beside its averaged tensors."""
        weight = float(reply.info["examples"])
        moved = {n: t - self.sent[n] for n, t in reply.tensors.items()}
        layers = [moved[p.name] for p in layout if p.layer is not None and p.name in moved]
        self.distances.append(sum(float(t.double().square().sum()) for t in layers) ** 0.5)
        if self.consensus is not None and moved:  # a rehearsal's reply may hold no tensors
            zero = {p.name: torch.zeros(p.shape) for p in layout}
            self.consensus.fold(zero | moved, weight)


class WarmUp(PartlyShared):
    """A round of FedAvg over every layer, in which devices also say how well the model judges as they train it."""

    name: ClassVar[str] = "warm-up"

    @property
    def _is_open(self) -> bool:
        """Whether the warm-up's length depends on how well the model judges."""
        return self.config.warm_up.rounds is None

    @property
    def _groups(self) -> int:
        return task_kind(self.config).judged_groups(self.layout.outputs)

    # Server half

    def due(self, state: ServerState) -> bool:
        """Until the model judges well, or as many rounds as a warm-up may take are over."""
        return super().due(state) and not self.plan.is_warm(state)

    def expected(self, state: ServerState) -> tuple[Mapping[str, TensorSpec], Mapping[str, InfoSpec]]:
        """How well the model judges, too, where that ends the warm-up."""
        tensors, info = super().expected(state)
        return {**tensors, **({JUDGED: TensorSpec((2, self._groups), torch.float64)} if self._is_open else {})}, info

    def problem(self, state: ServerState, reply: Reply) -> str | None:
        """Scores of no more examples than there are."""
        if JUDGED in reply.tensors:
            right, examples = reply.tensors[JUDGED]
            if (right < 0).any() or (right > examples).any() or examples.sum() > reply.info["examples"]:
                return "what it says of the model's judgement contradicts itself"
        return super().problem(state, reply)

    def accumulator(self, state: ServerState) -> _Replies:
        consensus = ConsensusSum(self.layout) if self.config.sharing.layers == "consensus" else None
        return _Replies(super().accumulator(state), state.tensors, np.zeros((2, self._groups)), consensus=consensus)

    def fold(self, accumulator: _Replies, reply: Reply) -> None:
        tensors = dict(reply.tensors)
        judged = tensors.pop(JUDGED, None)
        if judged is not None:
            accumulator.judged += judged.numpy()
        reply = dataclasses.replace(reply, tensors=tensors)
        super().fold(accumulator.mean, reply)
        accumulator.note(reply, self.layout)

    def finish(self, state: ServerState, accumulator: _Replies) -> ServerState:
        """The average; and the end of the warm-up, when it has come, with what it tells of the layers."""
        state = super().finish(state, accumulator.mean)
        task, known = task_kind(self.config), judgements_key(self.config)
        enough = False
        if accumulator.judged[1].any():  # nothing is judged where the length is set
            rounds = [*state.info.get(known, []), task.judgement(accumulator.judged)]
            state = noted(state, **{known: rounds})
            enough = task.is_warm(self.config, rounds, self.layout.outputs)
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
        """Train; where the warm-up's length is open, also say what the forward passes tell of the model."""
        result: LocalResult = yield self.job(device, request, counted=self._is_open)
        reply, state = self.conclude(device, request, result)
        if result.seen is not None:
            judged = torch.from_numpy(device.site.data.task.judged(result.seen.counts))
            reply = dataclasses.replace(reply, tensors={**reply.tensors, JUDGED: judged})
        return device.keep(reply, state)

    def trained(self, request: Request) -> Iterable[str]:
        """What travels, which is everything but a frozen A; and a head that stays here."""
        travelling = set(self.plan.travelling(None))
        return [p.name for p in self.layout if p.name in travelling or p.layer is None]
