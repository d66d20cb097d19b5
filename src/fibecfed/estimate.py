"""What a run will train, send, take and need, before it starts."""

import time
from dataclasses import dataclass

import numpy as np

from fibecfed.federation import Device, Phase, Reply, Request, cohort, encode
from fibecfed.federation.messages import Address
from fibecfed.results import peak_memory_bytes
from fibecfed.runtime import Experiment
from fibecfed.training import TrainJob

_STEPS = 3  # optimizer steps that are timed


@dataclass(frozen=True)
class Estimate:
    """The answer of ``--dry-run``. Times and memory are measured on a few real steps and scaled."""

    parameters_trained: int
    parameters_sent: int
    bytes_down_per_round: int
    bytes_up_per_round: int
    seconds: float
    memory_bytes: int


def estimate(experiment: Experiment) -> Estimate:
    """Time a few steps of the first round's first device and scale by the examples of all rounds."""
    config, method = experiment.config, experiment.site.method
    state = method.midway(experiment.start)
    federation = config.federation
    phase = Phase("train", 1, federation.sampled)
    devices = experiment.data.devices.devices
    chosen = cohort(config.seed, phase, devices)
    tensors, info = method.request(state, phase, chosen[0])
    request = Request(Address("dry run", 1, phase.name, chosen[0]), tensors, info)
    sent = encode(request)
    back = encode(Reply(request.address, {n: state.tensors[n] for n in method.expected(state, phase)}))
    job = Device(experiment.site, chosen[0], 0).prepare(request)
    seconds = 0.0
    if isinstance(job, TrainJob):
        few = TrainJob(**{**job.__dict__, "batches": job.batches[:_STEPS]})
        list(experiment.site.executor.train([few]))  # the first pass also counts operations
        started = time.perf_counter()
        (result,) = experiment.site.executor.train([few])
        per_example = (time.perf_counter() - started) / max(1, result.examples)
        examples = experiment.data.devices.sizes.mean() * len(chosen) * config.training.local_epochs * federation.rounds
        if config.training.local_steps is not None:
            limit = config.training.local_steps * config.training.batch_size * len(chosen) * federation.rounds
            examples = min(examples, limit)
        seconds = per_example * float(examples)
    held_out = np.arange(len(experiment.data.held_out))[: config.evaluation.batch_size]
    started = time.perf_counter()
    experiment.site.executor.counts(state.tensors, experiment.data.held_out, held_out)
    evaluations = -(-federation.rounds // config.evaluation.every)
    seconds += (time.perf_counter() - started) * len(experiment.data.held_out) / len(held_out) * evaluations
    return Estimate(
        parameters_trained=experiment.layout.only(_trained(job)).size,
        parameters_sent=sum(t.numel() for t in tensors.values()),
        bytes_down_per_round=len(sent) * len(chosen),
        bytes_up_per_round=len(back) * len(chosen),
        seconds=seconds,
        memory_bytes=peak_memory_bytes(),
    )


def _trained(work: TrainJob | Reply | None) -> frozenset[str]:
    """The parameters that a device's work trains, whole or some rows."""
    if not isinstance(work, TrainJob):
        return frozenset()
    return frozenset(work.trained) | _trained(work.before)
