"""What a model's outputs are worth while it trains: counted from the forward passes that training makes anyway."""

from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from fibecfed.data.batches import first_seen
from fibecfed.tasks import Batch, Counts, Task
from fibecfed.training.job import TrainingSeen


class TrainingCounts:
    """Counts the examples of ``batches`` (positions, in the order that they run) as the model first sees each.

    Inside ``with``, every forward pass of ``model`` on a ``Batch`` is taken for the next rows of the batches, whole or
    in micro-batches. Its own outputs count, without what a loss adds to them. Nothing in the training step changes.
    Source: project decision (docs/method.md section 2).
    """

    def __init__(self, model: nn.Module, task: Task, batches: list[np.ndarray], with_chances: bool = False) -> None:
        self._model, self._task = model, task
        self._examples = np.concatenate(batches)
        self._new = first_seen(self._examples)
        self._passed = 0
        self._parts: list[Counts] = []
        self._chances: list[np.ndarray] | None = [] if with_chances else None
        self._handle: RemovableHandle | None = None

    def __enter__(self) -> "TrainingCounts":
        self._handle = self._model.register_forward_hook(self._see)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._handle is not None
        self._handle.remove()

    def result(self) -> TrainingSeen:
        """What was counted so far."""
        chances = None if self._chances is None else np.concatenate(self._chances)
        seen = self._examples[: self._passed][self._new[: self._passed]]
        return TrainingSeen(seen, Counts.join(self._parts), chances)

    def _see(self, module: nn.Module, args: tuple[Any, ...], outputs: Tensor) -> None:
        self.count(outputs, args[0])

    def count(self, outputs: Tensor, batch: Batch) -> None:
        """Take the model's outputs on the next rows, ``batch``; for whoever makes several devices' passes in one."""
        rows = slice(self._passed, self._passed + len(batch))
        self._passed += len(batch)
        new = np.flatnonzero(self._new[rows])
        if len(new):
            with torch.no_grad():
                self._parts.append(self._task.counts(outputs.detach(), batch).take(new))
                if self._chances is not None:
                    self._chances.append(self._task.chances(outputs.detach()).cpu().numpy()[new])
