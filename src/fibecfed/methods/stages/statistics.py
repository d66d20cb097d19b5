"""Sums over every device's examples, sent once before the first round: the task says which, and what they give."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from fibecfed.config import Config
from fibecfed.federation import COSTS, Device, InfoSpec, Members, Reply, Request, ServerState, Sum, TensorSpec, Work
from fibecfed.methods.stages.exchange import Exchange
from fibecfed.seeding import stream
from fibecfed.tasks import Task, task_kind
from fibecfed.training import FeaturesJob, FeaturesResult
from fibecfed.tuning import Layout

NAME = "statistics"
HEAD_REASON = "head_reason"  # in the server's memory: how the head was solved
FOLDS = 5  # of devices, kept apart so that what is solved of four can be judged by the fifth [D]


def fold_of(seed: int, device: int, devices: int) -> int:
    """The fold that a device belongs to; folds differ by one device at most."""
    return int(stream(seed, "folds of devices").permutation(devices)[device]) % FOLDS


@dataclass
class FoldedSums:
    """Sums in float64, one for each fold of devices that answered."""

    folds: dict[int, Sum] = field(default_factory=dict)

    def fold(self, number: int, tensors: Mapping[str, Tensor]) -> None:
        """Take the sums of a device of that fold."""
        self.folds.setdefault(number, Sum()).fold({name: tensor.double() for name, tensor in tensors.items()}, 1.0)

    def parts(self) -> list[dict[str, Tensor]]:
        """The sums of each fold."""
        return [total.result() for _, total in sorted(self.folds.items())]

    def result(self) -> dict[str, Tensor]:
        """The sums over all devices."""
        total = Sum()
        for part in self.parts():
            total.fold(part, 1.0)
        return total.result()


class Statistics(Exchange):
    """Every device sends sums; the server keeps what the task says, and solves the head if it is asked to."""

    name: ClassVar[str] = NAME

    def __init__(self, config: Config, layout: Layout, shapes: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__(config, layout)
        self.shapes = shapes
        self.task: type[Task] = task_kind(config)

    def due(self, state: ServerState) -> bool:
        """Once, before anything else, if there is anything to sum."""
        return bool(self.shapes) and NAME not in state.info

    def members(self, state: ServerState) -> Members:
        """Every device."""
        return Members(self.config.federation.device_count)

    def expected(self, state: ServerState) -> tuple[Mapping[str, TensorSpec], Mapping[str, InfoSpec]]:
        """The sums, as the task lets them travel."""
        return {name: TensorSpec(shape, self.task.sum_dtype(name)) for name, shape in self.shapes.items()}, COSTS

    def problem(self, state: ServerState, reply: Reply) -> str | None:
        """Sums must belong together."""
        return self.task.sums_problem(reply.tensors, reply.info["examples"])

    def accumulator(self, state: ServerState) -> FoldedSums:
        return FoldedSums()

    def fold(self, accumulator: FoldedSums, reply: Reply) -> None:
        """Sums are sums: not weighted."""
        number = fold_of(self.config.seed, reply.address.device, self.config.federation.device_count)
        accumulator.fold(number, reply.tensors)

    def finish(self, state: ServerState, accumulator: Any) -> ServerState:
        """The sums become a head."""
        tensors, info = dict(state.tensors), {**state.info, NAME: True}
        if self.config.model.solves_head:
            head, info[HEAD_REASON] = self.task.solve_head(self.config, accumulator.parts(), state.tensors)
            tensors |= head
        memory = {**state.memory, **self.task.kept_sums(accumulator.result())}
        return state.replace(tensors=tensors, info=info, memory=memory)

    def work(self, device: Device, request: Request) -> Work:
        """The sums, taken of the model that all start with."""
        vectors = None
        if self.task.needs_features(self.shapes):
            found: FeaturesResult = yield FeaturesJob(device.number, device.model({}), device.indices)
            device.count_scored(device.examples, found.operations)
            vectors = found.vectors
        targets = torch.from_numpy(device.site.data.train.targets[device.indices])
        return Reply(request.address, self.task.device_sums(targets, vectors, self.shapes), self.costs(device))


def summed(state: ServerState, config: Config, shapes: Mapping[str, tuple[int, ...]]) -> ServerState:
    """A state as it is after the statistics, for estimates before a run."""
    sums = {name: torch.ones(shape, dtype=torch.float64) for name, shape in shapes.items()}
    return state.replace(info={**state.info, NAME: True}, memory={**state.memory, **task_kind(config).kept_sums(sums)})
