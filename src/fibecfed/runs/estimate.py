"""What a run will train, send, take and need, before it starts."""

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from fibecfed.config import Config
from fibecfed.errors import InputError
from fibecfed.federation import Device, Reply, encode, next_stage
from fibecfed.models import is_weightless
from fibecfed.results import peak_memory_bytes
from fibecfed.runs.weightless import CountedMemory, counted_memory, made_up_result
from fibecfed.runtime import Experiment, rehearse
from fibecfed.training import TrainJob
from fibecfed.training.operations import OperationCounter
from fibecfed.tuning import Layout

_STEPS = 2  # optimizer steps that are timed
_EVALUATED = 32  # held-out examples that are timed


@dataclass(frozen=True)
class Round:
    """An ordinary round of a method, as one of its devices sees it. A method without rounds has zeros and no job."""

    parameters_trained: int = 0
    parameters_sent: int = 0
    bytes_down: int = 0  # to one device
    bytes_up: int = 0  # from one device
    devices: int = 0
    job: TrainJob | None = None


@dataclass(frozen=True)
class Stretch:
    """Stages of one kind in a row: the warm-up's rounds, an initialization, the rounds after it."""

    name: str  # of its stages
    rounds: tuple[int, int] | None  # the first and the last; None: they are no rounds
    devices: int  # that take part in a stage
    bytes_down: int  # of all its messages
    bytes_up: int


@dataclass(frozen=True)
class ExpectedTraffic:
    """What all devices of a whole run receive and send. What is assumed of the run: see ``rehearse``."""

    stretches: tuple[Stretch, ...]
    warm_up: int  # rounds, the most it may take
    devices: int  # in the federation
    met: int  # that take part at least once

    @property
    def bytes_down(self) -> int:
        """To all devices."""
        return sum(stretch.bytes_down for stretch in self.stretches)

    @property
    def bytes_up(self) -> int:
        """From all devices."""
        return sum(stretch.bytes_up for stretch in self.stretches)


@dataclass(frozen=True)
class Estimate:
    """The answer of ``--dry-run``. Times and memory are measured on a few real steps and scaled.

    Of a model without weights no time is known, and memory is counted.
    """

    config: Config
    round: Round
    traffic: ExpectedTraffic
    seconds: float | None
    memory_bytes: int
    counted: CountedMemory | None = None
    workers: int = 1  # that share the time
    together: int = 1  # devices that one pass of the run trains; one was measured
    kept_bytes: int = 0  # of hidden states of all training examples, of which those of a few steps were measured


class _Uncounted(OperationCounter):
    """Says 0: counting takes seconds, and an estimate shows no operations."""

    def _total(self, *arguments: object) -> float:
        return 0.0


def ordinary_round(experiment: Experiment) -> Round:
    """What one device trains, receives and returns in a round in mid-run, encoded as it would be.

    The device has a few of its examples only: scoring all of them takes seconds and changes no size.
    """
    with _not_counting(experiment):
        return _ordinary_round(experiment)


def _ordinary_round(experiment: Experiment) -> Round:
    config, method, server = experiment.config, experiment.method, experiment.server
    state = method.midway(experiment.start)
    stage = next_stage(method, state)
    if stage is None or not stage.is_round:
        return Round()
    chosen = server.cohort(state, stage)
    request = server.request(state, stage, chosen[0])
    device = Device(experiment.site, chosen[0], 0)
    device.indices = _usual(device.indices, experiment.data.train.lengths, _STEPS * config.training.batch_size)
    work = stage.work(device, request)
    job = next(work)
    weightless = is_weightless(experiment.model)
    while not isinstance(job, TrainJob):  # a device that was never sampled scores its examples first
        job = work.send(made_up_result(experiment, job) if weightless else experiment.site.executor.result(job))
    packing = server.compression
    back = {name: torch.zeros(spec.shape, dtype=spec.dtype) for name, spec in stage.expected(state)[0].items()}
    return Round(
        parameters_trained=_trained(job, experiment.layout),
        parameters_sent=sum(t.numel() for t in request.tensors.values()),
        bytes_down=len(encode(packing.outline(request, None, 0))),
        bytes_up=len(encode(packing.outline(Reply(request.address, back), request, 0))),
        devices=len(chosen),
        job=job,
    )


def traffic(experiment: Experiment) -> ExpectedTraffic:
    """The bytes of a whole run, from its first stage to its last."""
    stretches: list[Stretch] = []
    warm_up, met = 0, set[int]()
    for done in rehearse(experiment):
        met |= set(done.cohort)
        last = stretches[-1] if stretches else None
        number = done.round if done.stage.is_round else None
        if last is not None and last.rounds and number and last.name == done.stage.name:
            stretches[-1] = dataclasses.replace(
                last,
                rounds=(last.rounds[0], number),
                bytes_down=last.bytes_down + done.bytes_down,
                bytes_up=last.bytes_up + done.bytes_up,
            )
        else:
            span = (number, number) if number else None
            stretches.append(Stretch(done.stage.name, span, len(done.cohort), done.bytes_down, done.bytes_up))
        warm_up = done.after.info.get("warm_up", 0)
    return ExpectedTraffic(tuple(stretches), warm_up, experiment.data.devices.devices, len(met))


def estimate(experiment: Experiment) -> Estimate:
    """Time a few steps of a round's first device and scale by the examples of all rounds; rehearse the messages."""
    with _not_counting(experiment):
        found = _ordinary_round(experiment)
        if is_weightless(experiment.model):
            return _counted(experiment, found)
        seconds = _seconds(experiment, found)
    workers, together = 1, 1
    if experiment.workers is not None:
        workers, together = experiment.workers.number, experiment.workers.together
    sent, memory = traffic(experiment), peak_memory_bytes()
    kept = experiment.site.executor.hidden_states.expected_bytes(int(experiment.data.train.lengths.sum()))
    return Estimate(
        experiment.config, found, sent, seconds / workers, memory, workers=workers, together=together, kept_bytes=kept
    )


def _counted(experiment: Experiment, found: Round) -> Estimate:
    if found.job is None:
        raise InputError(f"method={experiment.config.method} has no rounds that could be counted without weights.")
    memory = counted_memory(experiment, found.job)
    return Estimate(experiment.config, found, traffic(experiment), None, memory.total, memory)


@contextmanager
def _not_counting(experiment: Experiment) -> Iterator[None]:
    executor = experiment.site.executor
    counter = executor.operations
    executor.operations = _Uncounted(executor.model, executor.task, executor.device)
    try:
        yield
    finally:
        executor.operations = counter


def _seconds(experiment: Experiment, found: Round) -> float:
    config, executor = experiment.config, experiment.site.executor
    seconds = 0.0
    if found.job is not None:
        job = dataclasses.replace(found.job, batches=found.job.batches[:_STEPS])
        executor.result(dataclasses.replace(job, batches=job.batches[:1]))  # the first one is slower
        started = time.perf_counter()
        result = executor.result(job)
        per_example = (time.perf_counter() - started) / max(1, result.examples)
        work = found.devices * config.federation.rounds
        examples = experiment.data.devices.sizes.mean() * config.training.local_epochs * work
        if config.training.local_steps is not None:
            examples = min(examples, config.training.local_steps * config.training.batch_size * work)
        seconds = per_example * float(examples)
    held_out = experiment.data.held_out
    evaluated = _usual(np.arange(len(held_out)), held_out.lengths, min(config.evaluation.batch_size, _EVALUATED))
    started = time.perf_counter()
    executor.counts(experiment.start.tensors, held_out, evaluated)
    evaluations = -(-config.federation.rounds // config.evaluation.every) if found.job is not None else 1
    return seconds + (time.perf_counter() - started) * len(held_out) / len(evaluated) * evaluations


def _usual(indices: np.ndarray, lengths: np.ndarray, most: int) -> np.ndarray:
    """So many of the examples, ascending: those in the middle by length, whose time is the mean one."""
    order = indices[np.argsort(lengths[indices], kind="stable")]
    start = max(0, (len(order) - most) // 2)
    return np.sort(order[start : start + most])


def _trained(job: TrainJob, layout: Layout) -> int:
    """Entries that move in a job or in the one before it; of some matrices only rows."""
    moving = {**(job.before.trained if job.before else {}), **job.trained}
    entries = 0
    for p in layout.only(moving):
        rows = moving[p.name]
        entries += p.size if rows is None else p.size // p.shape[0] * len(rows)
    return entries
