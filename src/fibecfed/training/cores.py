"""How many worker processes a run takes, or how many devices one pass trains, and why."""

import os
import sys
from dataclasses import dataclass
from typing import Any

from torch import nn

from fibecfed.config import Config
from fibecfed.data import FederatedData
from fibecfed.errors import InputError
from fibecfed.models import blocks, is_weightless
from fibecfed.training.torch_devices import torch_device

# Parameters of the layers x tokens that a device trains on in a round: about 0.1 s of one core. A smaller job does not
# repay what its process costs. Source: project decision.
LEAST_WORK = 1e9
COHORT = 8  # devices that training.cohort=auto trains in one pass of a CUDA device. Source: project decision.

_share: int | None = None


def use_cores(cores: int) -> None:
    """Let ``auto`` count on so many cores in this process: of runs side by side each has its share."""
    global _share
    _share = cores


def all_cores() -> int:
    """The cores that this process could use if it were alone."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores_here() -> int:
    """The cores that this process may use."""
    return all_cores() if _share is None else min(all_cores(), _share)


@dataclass(frozen=True)
class WorkerCount:
    """How many processes share the work; 1: none beside this one. ``why`` follows the number in a sentence.

    ``together``: devices that one pass trains, of one process.
    """

    number: int
    why: str
    together: int = 1

    def __str__(self) -> str:
        if self.together > 1:
            return f"Up to {self.together} devices train together, in one pass of the model ({self.why})."
        if self.number == 1:
            return f"Devices train one after another in one process ({self.why})."
        return f"{self.number} worker processes train devices side by side ({self.why})."


def worker_count(config: Config, data: FederatedData, model: nn.Module) -> WorkerCount:
    """What ``runtime.workers`` and ``training.cohort`` come to for a run of this model.

    Raises InputError for what cannot be had here.
    """
    obstacle, wanted = _obstacle(config, model), config.runtime.workers
    together = 1 if is_weightless(model) else min(_cohort(config), data.devices.devices)
    if wanted != "auto" and wanted > 1:
        if config.training.cohort not in ("auto", 1):
            raise InputError(
                f"runtime.workers={wanted} spreads devices over processes, and training.cohort="
                f"{config.training.cohort} trains them together in one; set one of them to 1."
            )
        if obstacle is not None:
            raise InputError(f"runtime.workers={wanted}, but {obstacle}; set runtime.workers to 1 or auto.")
        return WorkerCount(wanted, "as set")
    if together > 1:
        why = "training.cohort=auto on a GPU" if config.training.cohort == "auto" else "as set"
        return WorkerCount(1, why, together)
    if wanted == 1:
        return WorkerCount(1, "as set")
    if obstacle is not None:
        return WorkerCount(1, obstacle)
    backbone: Any = model.backbone
    layers = blocks(backbone, backbone.config)
    work = sum(p.numel() for layer in layers for p in layer.parameters()) * _tokens_of_a_device(config, data)
    if work < LEAST_WORK:
        return WorkerCount(1, f"{work:.1g} parameters x tokens a device and round; a process is worth it from 1e9 on")
    threads, cores = config.runtime.threads, cores_here()
    devices = min(config.federation.cohort_size, data.devices.devices)
    of_threads = "" if threads == 1 else f" for {threads} threads each"
    why = f"{cores} cores{of_threads}, {devices} devices a round"
    return WorkerCount(max(1, min(devices, cores // threads)), why)


def _cohort(config: Config) -> int:
    """What ``training.cohort`` asks for."""
    if config.training.cohort != "auto":
        return config.training.cohort
    return COHORT if torch_device(config.runtime.device).type == "cuda" else 1


def _obstacle(config: Config, model: nn.Module) -> str | None:
    """Why there cannot be more than one process."""
    device = torch_device(config.runtime.device)
    if device.type != "cpu":
        return f"on a {device.type} device one process does all the work"
    if sys.platform != "linux":
        return "worker processes need Linux, since torch cannot be forked safely elsewhere"
    if is_weightless(model):
        return "a model without weights cannot work"
    return None


def _tokens_of_a_device(config: Config, data: FederatedData) -> float:
    """That a mean device trains on in a round."""
    training, lengths = config.training, data.train.lengths
    if not len(lengths):
        return 0.0
    examples = float(data.devices.sizes.mean()) * training.local_epochs
    if training.local_steps is not None:
        examples = min(examples, training.local_steps * training.batch_size)
    return examples * float(lengths.mean())
