"""What tests of single baselines share: changed settings, a run with its experiment, and every message that crossed."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

import fibecfed
from fibecfed import Callback, Config
from fibecfed.config import build_config, merge, to_dict
from fibecfed.data import training_batches
from fibecfed.federation import Device, DeviceSide, Reply, Request, ServerState
from fibecfed.runs.run import RunResult
from fibecfed.runtime import Experiment
from fibecfed.training import DeviceFailed, TrainJob

Parameters = dict[str, torch.nn.Parameter]


def changed(config: Config, *values: dict[str, Any], **more: Any) -> Config:
    content = to_dict(config)
    for value in (*values, more):
        content = merge(content, value)
    return build_config(content)


@dataclass
class Watched:
    """A run, the experiment behind it, and its messages in order."""

    experiment: Experiment
    result: RunResult
    messages: list[tuple[Request, Reply]] = field(default_factory=list)

    @property
    def state(self) -> ServerState:
        return self.result.state

    def of(self, stage: str) -> list[tuple[Request, Reply]]:
        return [(q, r) for q, r in self.messages if q.address.stage == stage]

    def job(self, device: Device, request: Request) -> TrainJob:
        """The training that a device does for a request."""
        executor, stages = self.experiment.site.executor, self.experiment.method.stages
        (stage,) = (stage for stage in stages if stage.name == request.address.stage)
        work = stage.work(device, request)
        job = next(work)
        while not isinstance(job, TrainJob):
            job = work.send(executor.result(job))
        return job


class _Watch(Callback):
    def started(self, experiment: Experiment, state: ServerState, records: object) -> None:
        self.experiment = experiment


@contextmanager
def listening(messages: list[tuple[Request, Reply]]) -> Iterator[None]:
    """What devices are asked and reply, while the block runs."""
    answers = DeviceSide.answers

    def recording(side: DeviceSide, requests: Iterable[Request]) -> Iterator[Reply | DeviceFailed]:
        asked: list[Request] = []

        def taken() -> Iterator[Request]:
            for request in requests:
                asked.append(request)
                yield request

        for position, reply in enumerate(answers(side, taken())):
            if isinstance(reply, Reply):
                messages.append((asked[position], reply))
            yield reply

    DeviceSide.answers = recording  # type: ignore[method-assign]
    try:
        yield
    finally:
        DeviceSide.answers = answers  # type: ignore[method-assign]


def watched(config: Config) -> Watched:
    watch, messages = _Watch(), list[tuple[Request, Reply]]()
    with listening(messages):
        result = fibecfed.run(config, callbacks=[watch])
    return Watched(watch.experiment, result, messages)


def same_run(one: RunResult, other: RunResult, but: tuple[str, ...] = ()) -> None:
    """Bit for bit, but for seconds, the metrics named in ``but``, and what only one of the methods keeps."""
    for name, tensor in one.state.tensors.items():
        assert torch.equal(other.state.tensors[name], tensor), name
    for a, b in zip(one.metrics, other.metrics, strict=True):
        left_out = {"cpu_seconds", *but}
        assert {k: v for k, v in a.items() if k not in left_out} == {k: v for k, v in b.items() if k not in left_out}


def entries(tensors: Iterable[Tensor]) -> int:
    return sum(t.numel() for t in tensors)


def batches_of(experiment: Experiment, device: int, round: int) -> list[np.ndarray]:
    config, data = experiment.config, experiment.data
    mine = data.devices.indices(device)
    return training_batches(
        mine, data.train.lengths[mine], config.training.batch_size,
        seed=config.seed, round=round, device=device, epochs=config.training.local_epochs,
    )  # fmt: skip


def by_hand(
    experiment: Experiment,
    start: dict[str, Tensor],
    batches: list[np.ndarray],
    step: Callable[[Parameters, dict[str, Tensor]], None],
) -> dict[str, Tensor]:
    """Plain training: for every batch the mean loss's gradients go to ``step``, which moves the parameters."""
    parameters = {n: p for n, p in experiment.model.named_parameters() if n in start}
    for name, parameter in parameters.items():
        parameter.data.copy_(start[name])
        parameter.requires_grad_(True)
    for chosen in batches:
        batch = experiment.data.train.batch(chosen)
        loss = torch.nn.functional.cross_entropy(experiment.model(batch), batch.targets)
        gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        found = {
            n: g if g is not None else torch.zeros_like(p)
            for (n, p), g in zip(parameters.items(), gradients, strict=True)
        }
        with torch.no_grad():
            step(parameters, found)
    return {name: p.detach().clone() for name, p in parameters.items()}


ONE_DEVICE: dict[str, Any] = {
    "federation": {"devices": 1, "sampled": 1, "rounds": 1},
    "data": {"partition": {"kind": "iid"}},
    "training": {"max_grad_norm": None, "batch_size": 16},
}
