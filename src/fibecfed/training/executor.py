"""Running devices' work on one resident model."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from fibecfed.config import Config
from fibecfed.data import TokenizedSet, evaluation_batches
from fibecfed.errors import InputError
from fibecfed.models import blocks
from fibecfed.tasks import Counts, Task
from fibecfed.training.job import LocalResult, TrainJob
from fibecfed.training.local import batch_sizes, train
from fibecfed.training.operations import OperationCounter
from fibecfed.tuning import put_tensors


class Executor(Protocol):
    """Runs training jobs; one that stacks a cohort's LoRA in one pass fits behind the same interface."""

    def train(self, jobs: Iterable[TrainJob]) -> Iterator[LocalResult]:
        """Results in the order of the jobs."""


class SequentialExecutor:
    """One device after another on one resident backbone."""

    def __init__(self, model: nn.Module, task: Task, data: TokenizedSet, config: Config) -> None:
        self.device = torch_device(config.runtime.device)
        self.model = model.to(self.device)
        self.task = task
        self.data = data
        self.config = config
        self.operations = OperationCounter(self.model, task, self.device)
        self._trainable = [name for name, p in model.named_parameters() if p.requires_grad]

    def train(self, jobs: Iterable[TrainJob]) -> Iterator[LocalResult]:
        """Each job in turn. Raises DeviceFailed from the job whose loss is not finite."""
        settings = self.config.training
        for job in jobs:
            put_tensors(self.model, job.tensors)
            self._require_gradients(job.trained)
            batches = (self.data.batch(indices).to(self.device) for indices in job.batches)
            with torch.random.fork_rng(devices=[]), self._training_mode():
                torch.manual_seed(job.seed)
                total, optimizer_state = train(self.model, self.task, job, batches, settings)
            parameters = dict(self.model.named_parameters())
            examples = sum(map(len, job.batches))
            yield LocalResult(
                tensors={name: parameters[name].detach().cpu().clone() for name in job.trained},
                loss=total / max(1, examples),
                examples=examples,
                operations=self.operations.training(batch_sizes(list(job.batches), self.data.lengths)),
                optimizer_state=optimizer_state,
            )

    def counts(self, tensors: Mapping[str, Tensor], data: TokenizedSet, indices: np.ndarray) -> Counts:
        """Evaluation counts of the examples at ``indices``, in that order."""
        put_tensors(self.model, tensors)
        parts: list[Counts] = []
        places: list[np.ndarray] = []
        position = np.empty(len(data), dtype=np.int64)
        position[indices] = np.arange(len(indices))
        with torch.no_grad():
            for chosen in evaluation_batches(indices, data.lengths[indices], self.config.evaluation.batch_size):
                batch = data.batch(chosen).to(self.device)
                parts.append(self.task.counts(self.model(batch), batch))
                places.append(position[chosen])
        if not parts:
            return Counts({})
        return Counts.join(parts).take(np.argsort(np.concatenate(places)))

    def _require_gradients(self, names: Mapping[str, Tensor | None]) -> None:
        """Only what trains asks for gradients, so autograd stops below the lowest layer that does."""
        parameters = dict(self.model.named_parameters())
        for name in self._trainable:
            parameters[name].requires_grad_(name in names)
            parameters[name].grad = None

    def _training_mode(self) -> "_TrainingMode":
        return _TrainingMode(self.model, self.config)


class _TrainingMode:
    """Evaluation mode, but LoRA dropout on if asked, and the blocks told to checkpoint if asked.

    The backbone's own dropout stays off: frozen layers then give the same values each time, which caching
    hidden states relies on (project decision).
    """

    def __init__(self, model: nn.Module, config: Config) -> None:
        self._modules: list[nn.Module] = []
        if config.lora.dropout:
            self._modules += [
                m for n, m in model.named_modules() if ".lora_dropout." in n and isinstance(m, nn.Dropout)
            ]
        if config.training.gradient_checkpointing:
            backbone = model.backbone
            self._modules += list(blocks(backbone, backbone.config))  # type: ignore[arg-type,union-attr]

    def __enter__(self) -> None:
        for module in self._modules:
            module.training = True

    def __exit__(self, *details: object) -> None:
        for module in self._modules:
            module.training = False


def torch_device(name: str) -> torch.device:
    """The torch device of runtime.device. Raises InputError if this machine does not have it."""
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(kind for kind, there in available.items() if there)
    if not available[name]:
        raise InputError(f"runtime.device={name}, but torch finds no such device here; use cpu or auto.")
    return torch.device(name)
