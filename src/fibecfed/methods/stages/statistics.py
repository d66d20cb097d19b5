"""Sums over every device's examples, sent once before the first round: the task says which, and what they give."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from fibecfed.config import Config
from fibecfed.federation import COSTS, Device, InfoSpec, Members, Reply, Request, ServerState, Sum, TensorSpec, Work
from fibecfed.methods.stages.exchange import Exchange
from fibecfed.tasks import Task, task_kind
from fibecfed.training import FeaturesJob, FeaturesResult
from fibecfed.tuning import Layout

NAME = "statistics"


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
        """The sums, in float64."""
        return {name: TensorSpec(shape, torch.float64) for name, shape in self.shapes.items()}, COSTS

    def problem(self, state: ServerState, reply: Reply) -> str | None:
        """Sums must belong together."""
        return self.task.sums_problem(reply.tensors, reply.info["examples"])

    def accumulator(self, state: ServerState) -> Sum:
        return Sum()

    def fold(self, accumulator: Sum, reply: Reply) -> None:
        """Sums are sums: not weighted."""
        accumulator.fold(reply.tensors, 1.0)

    def finish(self, state: ServerState, accumulator: Any) -> ServerState:
        """The sums become a head."""
        result, tensors = accumulator.result(), dict(state.tensors)
        if self.config.model.head_init != "random":
            tensors |= self.task.solve_head(self.config, result, state.tensors)
        return state.replace(
            tensors=tensors,
            info={**state.info, NAME: True},
            memory={**state.memory, **self.task.kept_sums(result)},
        )

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
