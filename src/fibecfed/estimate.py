"""What a run will train, send, take and need, before it starts."""

import time
from dataclasses import dataclass

import numpy as np
import torch

from fibecfed.federation import Device, Reply, encode, next_stage
from fibecfed.results import peak_memory_bytes
from fibecfed.runtime import Experiment
from fibecfed.training import TrainJob
from fibecfed.tuning import Layout

_STEPS = 3  # optimizer steps that are timed


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
class Estimate:
    """The answer of ``--dry-run``. Times and memory are measured on a few real steps and scaled."""

    round: Round
    seconds: float
    memory_bytes: int


def ordinary_round(experiment: Experiment) -> Round:
    """What one device trains, receives and returns in a round in mid-run, encoded as it would be."""
    method, server, executor = experiment.method, experiment.server, experiment.site.executor
    state = method.midway(experiment.start)
    stage = next_stage(method, state)
    if stage is None or not stage.is_round:
        return Round()
    chosen = server.cohort(state, stage)
    request = server.request(state, stage, chosen[0])
    work = stage.work(Device(experiment.site, chosen[0], 0), request)
    job = next(work)
    while not isinstance(job, TrainJob):  # a device that was never sampled scores its examples first
        job = work.send(executor.result(job))
    back = {name: torch.zeros(spec.shape, dtype=spec.dtype) for name, spec in stage.expected(state)[0].items()}
    return Round(
        parameters_trained=_trained(job, experiment.layout),
        parameters_sent=sum(t.numel() for t in request.tensors.values()),
        bytes_down=len(encode(request)),
        bytes_up=len(encode(Reply(request.address, back))),
        devices=len(chosen),
        job=job,
    )


def estimate(experiment: Experiment) -> Estimate:
    """Time a few steps of a round's first device and scale by the examples of all rounds."""
    config, executor = experiment.config, experiment.site.executor
    found = ordinary_round(experiment)
    seconds = 0.0
    if found.job is not None:
        few = TrainJob(**{**found.job.__dict__, "batches": found.job.batches[:_STEPS]})
        executor.result(few)  # the first pass also counts operations
        started = time.perf_counter()
        result = executor.result(few)
        per_example = (time.perf_counter() - started) / max(1, result.examples)
        work = found.devices * config.federation.rounds
        examples = experiment.data.devices.sizes.mean() * config.training.local_epochs * work
        if config.training.local_steps is not None:
            examples = min(examples, config.training.local_steps * config.training.batch_size * work)
        seconds = per_example * float(examples)
    held_out = np.arange(len(experiment.data.held_out))[: config.evaluation.batch_size]
    started = time.perf_counter()
    executor.counts(experiment.start.tensors, experiment.data.held_out, held_out)
    evaluations = -(-config.federation.rounds // config.evaluation.every) if found.job is not None else 1
    seconds += (time.perf_counter() - started) * len(experiment.data.held_out) / len(held_out) * evaluations
    return Estimate(found, seconds, peak_memory_bytes())


def _trained(job: TrainJob, layout: Layout) -> int:
    """Entries that move in a job or in the one before it; of some matrices only rows."""
    moving = {**(job.before.trained if job.before else {}), **job.trained}
    entries = 0
    for p in layout.only(moving):
        rows = moving[p.name]
        entries += p.size if rows is None else p.size // p.shape[0] * len(rows)
    return entries
