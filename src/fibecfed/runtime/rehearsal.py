"""A run's messages without its work: the server goes through every stage, devices answer with made-up values.

What travels depends on the server's half of a method, on the cohorts and on the partition, all of which are known
before a run. What only work can tell is assumed; see ``rehearse``.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fibecfed.config import Config
from fibecfed.federation import (
    STATE_LOST,
    EncodedSizes,
    InfoSpec,
    Number,
    OneOf,
    Reply,
    Request,
    Server,
    ServerState,
    Stage,
    next_stage,
)
from fibecfed.federation.compression import RESIDUAL
from fibecfed.methods import FederatedAveraging, method_class
from fibecfed.methods.stages import JUDGED
from fibecfed.methods.stages.count_layers import GROUP_COUNTS
from fibecfed.runtime.experiment import Experiment
from fibecfed.sharing import fixed_count
from fibecfed.tasks import Task

# Numbers that nobody knows before: as long as they usually are as text.
_AS_LONG_AS = {"loss": 0.6931471805599453, "operations": 123456789012.0}


@dataclass(frozen=True)
class Rehearsed:
    """A stage, and the bytes that its messages take."""

    stage: Stage
    round: int  # that it is, or prepares
    cohort: tuple[int, ...]
    bytes_down: int  # to all of the cohort
    bytes_up: int
    after: ServerState


def rehearse(experiment: Experiment) -> Iterator[Rehearsed]:
    """Every stage of a run with the sizes of its messages, encoded as they would be.

    Assumed: every device answers, no round is left out, a warm-up takes as many rounds as it may, and half of the
    layers are shared where devices decide on their number. The few digits of numbers that only work gives (loss,
    operations) may be more or fewer; with safetensors' alignment that is at most 16 bytes a message. Which triplets
    adalora prunes is drawn at random, which is right to a few percent.
    """
    method, state = _with_means(experiment), experiment.start
    original = experiment.server
    server = Server(method.config, method, original.transport, original.devices, original.run_name)
    sizes = EncodedSizes()
    data, task, held = experiment.data, experiment.data.task, experiment.data.devices.sizes
    while (stage := next_stage(method, state)) is not None:
        chosen = server.cohort(state, stage)
        accumulator, (specs, info) = stage.accumulator(state), stage.expected(state)
        versions, residuals = dict(state.device_versions), dict(state.residual_versions)
        down, up, made_up = 0, 0, dict[str, Tensor]()
        number = 0
        for device in chosen:
            request = server.request(state, stage, device)
            number = request.address.round
            if stage.keeps_state:
                versions[device] = versions.get(device, 0) + 1
            answered = dataclasses.replace(request.address, state_version=versions.get(device, 0))
            if not stage.is_round or device == chosen[0]:
                counts = np.bincount(data.train.groups[data.devices.indices(device)], minlength=task.group_count)
                made_up = {name: _made_up(name, *spec, request, task, counts) for name, spec in specs.items()}
            said = _said(stage, method.config, info, int(held[device]))
            residual = residuals.get(device, 0)
            down += sizes(server.compression.outline(request, None, residual))
            reply = Reply(answered, made_up, said)
            packed = server.compression.outline(reply, request, residual)
            up += sizes(packed)
            if RESIDUAL in packed.info:
                residuals[device] = packed.info[RESIDUAL]
            if stage.is_round and device != chosen[0]:  # would not change the mean of what comes back as it was sent
                reply = Reply(answered, {}, {**said, "examples": 0})
            stage.fold(accumulator, reply)
        state = stage.finish(state, accumulator).replace(device_versions=versions, residual_versions=residuals)
        yield Rehearsed(stage, number, chosen, down, up, state)


def _with_means(experiment: Experiment) -> FederatedAveraging:
    """The method, with an aggregation that needs no reply of every device; it changes no size."""
    federation = dataclasses.replace(experiment.config.federation, aggregation="mean")
    config = dataclasses.replace(experiment.config, federation=federation)
    return method_class(config.method)(config, experiment.layout)


def _made_up(
    name: str, shape: tuple[int, ...], dtype: torch.dtype, request: Request, task: Task, group_counts: Any
) -> Tensor:
    """What was sent comes back; sums over groups are the device's; the losses of a count leave half of the layers."""
    sent = request.tensors.get(name)
    if sent is not None and tuple(sent.shape) == shape:
        return sent
    known = task.expected_sum(name, group_counts)
    if known is not None:
        return known.to(dtype)
    if name == GROUP_COUNTS:
        return torch.from_numpy(group_counts).to(dtype)
    if name == "losses":
        losses = torch.ones(shape, dtype=dtype)
        losses[: fixed_count(0.5, len(losses)) - 1] = 2
        return losses
    if name == JUDGED:
        return torch.zeros(shape, dtype=dtype)  # no score that could end a warm-up
    if len(shape) == 1:  # scores of layers or triplets: none is favoured
        return torch.rand(shape, dtype=dtype, generator=torch.Generator().manual_seed(0))
    return torch.ones(shape, dtype=dtype)


def _said(stage: Stage, config: Config, wanted: Mapping[str, InfoSpec], examples: int) -> dict[str, Any]:
    """The info of a reply of a device with so many examples."""
    left_out = {STATE_LOST} | (set() if stage.trains else {"loss", "examples_trained", "tokens", "tokens_cut"})
    known = {"examples": examples, "examples_trained": examples * config.training.local_epochs}
    return {
        name: known.get(name, _AS_LONG_AS.get(name, _least(spec)))
        for name, spec in wanted.items()
        if name not in left_out
    }


def _least(spec: InfoSpec) -> Any:
    if isinstance(spec, OneOf):
        return spec.values[0]
    assert isinstance(spec, Number)
    return None if spec.or_none else 0
