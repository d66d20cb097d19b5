"""Evaluating a run by both protocols of docs/method.md section 7: one global model, and each device's own."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from fibecfed.data import TokenizedSet
from fibecfed.federation import Device, Failure, Method, ServerState, Site
from fibecfed.runtime.answers import to_answer
from fibecfed.tasks import Counts, Task
from fibecfed.training import CountJob


@dataclass(frozen=True)
class OnDevice:
    """The score on one device's held-out examples; ``global_`` is None where no one model stands for the server's."""

    examples: int
    global_: float | None
    personalized: float


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one evaluation. ``worst_tenth`` is the mean score of the worst tenth of devices.

    ``answers``: by protocol (G, G) how many examples of each group were put into which, where the task does that.
    """

    metric: str  # the task's main one, which is the score
    global_: Mapping[str, float]
    personalized: Mapping[str, float]
    worst_tenth: float
    never_sampled: float | None  # score of devices without a model of their own; None if there are none
    missing: Sequence[Failure] = ()  # devices whose part in it could not be used
    lower_is_better: bool = False  # of the score
    devices: Mapping[int, OnDevice] = field(default_factory=dict)  # those with held-out examples
    answers: Mapping[str, np.ndarray] = field(default_factory=dict)

    def of_devices(self) -> dict[str, Any]:
        """What evaluation.json says beside the metrics: the score of each device, and what was taken for what."""
        return {
            "metric": self.metric,
            "lower_is_better": self.lower_is_better,
            "devices": {
                str(number): {"examples": on.examples, "global": on.global_, "personalized": on.personalized}
                for number, on in sorted(self.devices.items())
            },
            "answers": {protocol: counts.tolist() for protocol, counts in self.answers.items()},
        }


class Evaluator(Protocol):
    """Evaluates a run by both protocols."""

    global_is_mean_of_devices: bool

    def __call__(self, state: ServerState) -> Evaluation:
        """Metrics of the server's model and of the devices' own."""


class ResidentEvaluator:
    """Evaluates on the held-out set with the resident model."""

    def __init__(self, method: Method, site: Site, global_is_mean_of_devices: bool) -> None:
        self.method = method
        self.site = site
        self.global_is_mean_of_devices = global_is_mean_of_devices
        self._owner = site.data.held_out_owners.owner()
        self._judged = np.unique(self._owner)  # devices with held-out examples, of which there may be few
        self._device_metrics: dict[tuple[int, int], dict[str, float]] = {}

    def __call__(self, state: ServerState) -> Evaluation:
        data, task = self.site.data, self.site.data.task
        everything = np.arange(len(data.held_out))
        self.site.executor.features.share(state.tensors)  # models that differ in their heads read the same vectors
        server = self.site.executor.counts(state.tensors, data.held_out, everything)
        personal = server if data.own is None else self._with_own_targets(state, server, data.own)
        own = self._with_own_models(state)
        if own:
            personal = self._with_personal_models(state, personal, own)
        of_server, of_devices = self._answers_by_device(state, own)
        global_metrics = {**task.metrics(server), **self._answer_metrics(of_server)}
        if self.global_is_mean_of_devices:
            global_metrics = self._mean_over_devices(state) or global_metrics
        has_own = np.isin(self._owner, own)
        others = task.metrics(personal.take(np.flatnonzero(~has_own))) if has_own.any() else {}
        devices = self._on_devices(None if self.global_is_mean_of_devices else server, personal)
        return Evaluation(
            task.metric,
            global_metrics,
            {**task.metrics(personal), **self._answer_metrics(of_devices)},
            worst_tenth(np.array([on.personalized for on in devices.values()]), task.lower_is_better),
            others.get(task.metric),
            lower_is_better=task.lower_is_better,
            devices=devices,
            answers=answers_by_protocol(task, None if self.global_is_mean_of_devices else server, personal),
        )

    def _with_own_targets(self, state: ServerState, server: Counts, own: TokenizedSet) -> Counts:
        """The server model's counts, replaced where the target of the example at its device is not that of the data."""
        otherwise = np.flatnonzero(own.groups != self.site.data.held_out.groups)
        if not len(otherwise):
            return server
        return _replaced(server, otherwise, self.site.executor.counts(state.tensors, own, otherwise))

    def _with_personal_models(self, state: ServerState, server: Counts, own: Sequence[int]) -> Counts:
        """The server model's counts, replaced where the example's device has a model of its own."""
        values = {name: array.copy() for name, array in server.values.items()}
        owners, held_out = self.site.data.held_out_owners, self.site.data.own or self.site.data.held_out
        self.method.look_ahead(self.site, state)
        jobs = (
            CountJob(k, self.method.personal(self._device(k, state), state), held_out, owners.indices(k)) for k in own
        )
        for job, found in self.site.executor.results(jobs):
            for name, array in found.counts.values.items():
                values[name][job.indices] = array
        return Counts(values)

    def _answers_by_device(
        self, state: ServerState, with_own: Sequence[int]
    ) -> tuple[dict[int, Counts], dict[int, Counts]]:
        """What the server's model answers on each device, and what the device's own does; {} if nothing is asked."""
        of_server = self._answers(state.tensors)
        own = dict(of_server)
        if of_server:
            owners, data = self.site.data.held_out_owners, self.site.data.held_out
            jobs = (
                to_answer(self.site, self.method.personal(self._device(k, state), state), k, data, owners.indices(k))
                for k in with_own
            )
            own |= {job.device: found for job, found in self.site.executor.results(jobs)}
        return of_server, own

    def _answers(self, model: Mapping[str, Tensor], devices: Sequence[int] | None = None) -> dict[int, Counts]:
        """What a model answers to the prompts of devices (None: of all) that have held-out examples."""
        if self.site.answering is None:
            return {}
        owners, data = self.site.data.held_out_owners, self.site.data.held_out
        held = {int(k): owners.indices(k) for k in (self._judged if devices is None else devices)}
        jobs = (to_answer(self.site, model, k, data, mine) for k, mine in held.items() if len(mine))
        return {job.device: found for job, found in self.site.executor.results(jobs)}

    def _answer_metrics(self, by_device: Mapping[int, Counts]) -> dict[str, float]:
        if self.site.answering is None:
            return {}
        return self.site.answering.metrics(Counts.join([by_device[device] for device in sorted(by_device)]))

    def _with_own_models(self, state: ServerState) -> list[int]:
        """Devices with held-out examples and a model of their own, ascending.

        One that lost its model has the server's until it trains again. Of many devices only their numbers are held.
        """
        if not self.method.keeps_device_state:
            return []
        personal = self.method.personal_devices(state)
        known = personal if isinstance(personal, range) else frozenset(personal)
        return [k for k in self._judged.tolist() if k in known and self._device(k, state).state_lost is None]

    def _device(self, number: int, state: ServerState) -> Device:
        return Device(self.site, number, state.device_versions.get(number, 0))

    def _mean_over_devices(self, state: ServerState) -> dict[str, float]:
        """Each device's own model on the whole held-out set, metrics averaged; unchanged models are not run again."""
        everything = np.arange(len(self.site.data.held_out))
        metrics: list[dict[str, float]] = []
        for number, version in sorted(state.device_versions.items()):
            if (number, version) not in self._device_metrics:
                device = Device(self.site, number, version)
                if device.state_lost is not None:
                    continue
                model = self.method.personal(device, state)
                counts = self.site.executor.counts(model, self.site.data.held_out, everything)
                found = {**self.site.data.task.metrics(counts), **self._answer_metrics(self._answers(model))}
                self._device_metrics[number, version] = found
            metrics.append(self._device_metrics[number, version])
        return {name: float(np.mean([m[name] for m in metrics])) for name in (metrics[0] if metrics else ())}

    def _on_devices(self, server: Counts | None, personal: Counts) -> dict[int, OnDevice]:
        """The main metric of each device that has held-out examples, by both protocols."""
        owners, task = self.site.data.held_out_owners, self.site.data.task
        shards = {device: owners.indices(device) for device in self._judged.tolist()}
        return {
            device: on_device(task, len(mine), server and server.take(mine), personal.take(mine))
            for device, mine in shards.items()
        }


def _replaced(counts: Counts, places: np.ndarray, others: Counts) -> Counts:
    """``counts`` with ``others`` at these positions."""
    values = {name: array.copy() for name, array in counts.values.items()}
    for name, array in others.values.items():
        values[name][places] = array
    return Counts(values)


def on_device(task: Task, examples: int, server: Counts | None, personal: Counts) -> OnDevice:
    """The scores of one device's counts."""
    of_server = None if server is None else task.metrics(server)[task.metric]
    return OnDevice(examples, of_server, task.metrics(personal)[task.metric])


def answers_by_protocol(task: Task, server: Counts | None, personal: Counts) -> dict[str, np.ndarray]:
    """What was taken for what, by protocol; nothing where the task does not tell."""
    by_protocol = {"global": server, "personalized": personal}
    found = {name: None if counts is None else task.answers(counts) for name, counts in by_protocol.items()}
    return {name: answers for name, answers in found.items() if answers is not None}


def worst_tenth(scores: np.ndarray, lower_is_better: bool = False) -> float:
    """The mean score of the worst tenth of devices, at least one."""
    count = max(1, math.ceil(len(scores) / 10))
    ascending = np.sort(scores)
    return float((ascending[-count:] if lower_is_better else ascending[:count]).mean())
