"""Difficulty kept up to date by training itself: per-example gradient norms out of its backward passes."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from fibecfed.curriculum.kernels import ScoredParameters, Use
from fibecfed.errors import InputError, RunFailed
from fibecfed.tasks import Batch


class GradientRecorder:
    """Records each example's squared gradient norm while a model trains with ``loss.backward()``.

    Inside ``with GradientRecorder(model, names) as recorder``, forward passes on a ``Batch`` followed by a backward
    pass add up, micro-batch after micro-batch, until ``take`` empties the recorder; passes without gradients are not
    seen. ``names`` as for ``FisherScorer``; a parameter below the lowest one that trains counts as zero, because no
    gradient reaches it. Nothing in the training step changes. Inputs of the scored layers are kept until the next
    forward pass, also under gradient checkpointing.
    Source: project decision (docs/method.md section 4, refreshed scores). Raises InputError as ``ScoredParameters``.
    """

    def __init__(self, model: nn.Module, names: Iterable[str]) -> None:
        self._model = model
        self._scored = ScoredParameters(model, names)
        self._handles: list[RemovableHandle] = []
        self._examples = 0  # in the present forward pass
        self._uses: dict[nn.Module, list[Use]] = {}
        self._squares: list[Tensor] = []  # of finished passes

    def __enter__(self) -> "GradientRecorder":
        self._handles.append(self._model.register_forward_pre_hook(self._begin))
        for module in self._scored.modules:
            self._handles.append(module.register_forward_hook(self._watch, prepend=True, with_kwargs=True))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._uses.clear()

    def take(self, examples: int) -> Tensor:
        """(examples,) float64: squared gradient norms of all examples since the last call, in the order they ran.

        The loss in training is the mean over the ``examples`` of one step, so every gradient was divided by their
        number; this is undone. Raises RunFailed if another number of examples had a backward pass.
        """
        self._finish()
        squares = torch.cat(self._squares) if self._squares else torch.zeros(0, dtype=torch.float64)
        self._squares.clear()
        if len(squares) != examples:
            raise RunFailed(f"A step of {examples} examples had gradients for {len(squares)}; it cannot be scored.")
        return squares * float(examples) ** 2

    def _begin(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._finish()
        self._examples = len(args[0])

    def _finish(self) -> None:
        if self._uses:
            self._squares.append(self._scored.reduce(self._uses, self._examples)[0])
            self._uses = {}

    def _watch(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        if not output.requires_grad:
            return
        inputs: Tensor = args[0] if args else next(iter(kwargs.values()))
        self._scored.check(module, inputs, output, self._examples)
        kept, version = inputs.detach(), inputs._version

        def keep(gradient: Tensor) -> None:
            if kept._version != version:
                name = self._scored.modules[module]
                raise InputError(f"'{name}' cannot be scored: its input was changed in place.")
            self._uses.setdefault(module, []).append((kept, gradient.detach()))

        # On the tensor, so that a forward pass repeated by gradient checkpointing is not counted twice.
        output.register_hook(keep)


class RunningDifficulty:
    """An exponential average of each example's difficulty, fed by training steps.

    new = momentum * old + (1 - momentum) * seen; an example without a score takes the first one it gets.
    ``indices`` (n,) are the device's examples; ``start`` (n,) their scores so far, NaN for none (the default).
    Only trained examples change: those outside the prefix keep a score of an older, usually worse, model.
    Source: project decision (docs/method.md section 4). Raises InputError for a momentum outside [0, 1).
    """

    def __init__(self, indices: np.ndarray, start: np.ndarray | None = None, momentum: float = 0.5) -> None:
        if not 0 <= momentum < 1:
            raise InputError(f"The momentum of running difficulty is {momentum}; it must be at least 0 and below 1.")
        if start is not None and start.shape != indices.shape:
            raise ValueError(f"{start.shape} scores for {indices.shape} examples")
        self._momentum = momentum
        self._sorter = np.argsort(indices, kind="stable")
        self._sorted = indices[self._sorter]
        self._values = np.full(len(indices), np.nan) if start is None else start.astype(np.float64)

    @property
    def values(self) -> np.ndarray:
        """(n,) float64 in the order of the indices, NaN where nothing was seen yet."""
        return self._values.copy()

    def update(self, indices: np.ndarray, seen: np.ndarray | Tensor) -> None:
        """Take in difficulties (b,) of some of the device's examples. KeyError for an example of another device."""
        slots = np.minimum(np.searchsorted(self._sorted, indices), len(self._sorted) - 1)
        if len(self._sorted) == 0 or (self._sorted[slots] != indices).any():
            raise KeyError("examples that this device does not hold")
        places = self._sorter[slots]
        old, new = self._values[places], np.asarray(seen, dtype=np.float64)
        self._values[places] = np.where(np.isnan(old), new, self._momentum * old + (1 - self._momentum) * new)

    def follow(
        self,
        recorder: GradientRecorder,
        indices: Iterable[np.ndarray],
        batches: Iterable[Batch],
        weights: Mapping[int, float] | None = None,
        divisor: Callable[[np.ndarray, Batch], np.ndarray | float] | None = None,
    ) -> Iterator[Batch]:
        """The batches, unchanged; after the step on each one, its examples' recorded difficulties are taken in.

        ``indices`` holds each batch's examples. The consumer does one optimizer step a batch, on the mean loss, or on
        the mean of the losses times ``weights`` (by example, above 0), which is undone. ``divisor``: what else the
        difficulties of a batch are divided by, (b,) or one number, such as the square of a training scale.
        """
        for chosen, batch in zip(indices, batches, strict=True):
            yield batch
            seen = recorder.take(len(batch)).numpy()
            if weights is not None:
                seen = seen / np.array([weights[int(i)] for i in chosen]) ** 2
            self.update(chosen, seen if divisor is None else seen / divisor(chosen, batch))
