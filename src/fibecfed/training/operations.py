"""Counting the floating-point operations of training and prediction."""

import hashlib
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from peft import PeftConfig
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedConfig

from fibecfed.tasks import Batch, Task

_WIDTHS = (8, 16, 24)

_counted: dict[Hashable, np.ndarray] = {}


class OperationCounter:
    """Operations of a batch of B examples padded to T tokens: B (c + a T + b T^2).

    a, b and c come from counting three real passes once for each set of trained parameters. Attention is the only
    term quadratic in T; the head and a prompt's own places cost the same for every T. So skipped backward passes are
    counted as skipped, and a second forward pass as a second one. What was
    counted holds for every model of the same structure in this process.
    Source: docs/method.md section 9; the three-point count is a project decision.
    """

    def __init__(self, model: Any, task: Task, device: torch.device) -> None:
        self._model = model
        self._task = task
        self._device = device
        self._coefficients: dict[tuple[frozenset[str], bool] | None, np.ndarray] = {}

    def training(self, sizes: list[tuple[int, int]]) -> float:
        """Forward and backward over batches of (B, T), with the parameters that now require gradients."""
        names = frozenset(name for name, p in self._model.named_parameters() if p.requires_grad)
        recomputed = any("forward" in module.__dict__ for module in self._model.modules())
        return self._total((names, recomputed), sizes, self._forward_backward)

    def prediction(self, sizes: list[tuple[int, int]]) -> float:
        """Forward only over batches of (B, T)."""
        return self._total(None, sizes, self._forward)

    def _total(
        self, key: tuple[frozenset[str], bool] | None, sizes: list[tuple[int, int]], passes: Callable[[Batch], None]
    ) -> float:
        if key not in self._coefficients:
            alike = structure(self._model), repr(self._task), self._device.type, key is None
            if alike not in _counted:
                counted = [self._count(width, passes) for width in _WIDTHS]
                system = np.array([[1, width, width**2] for width in _WIDTHS], dtype=np.float64)
                _counted[alike] = np.linalg.solve(system, np.array(counted, dtype=np.float64))
            self._coefficients[key] = _counted[alike]
        constant, linear, quadratic = self._coefficients[key]
        return float(sum(b * (constant + linear * t + quadratic * t * t) for b, t in sizes))

    def _count(self, width: int, passes: Callable[[Batch], None]) -> int:
        ones = torch.ones(1, width, dtype=torch.int64, device=self._device)
        batch = Batch(ones, ones, self._task.trial_targets(ones))
        kept = {name: p.grad for name, p in self._model.named_parameters()}
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            passes(batch)
        for name, p in self._model.named_parameters():
            p.grad = kept[name]
        return int(counter.get_total_flops())

    def _forward_backward(self, batch: Batch) -> None:
        self._task.losses(self._model, batch).sum().backward()

    def _forward(self, batch: Batch) -> None:
        with torch.no_grad():
            self._model(batch)


def structure(model: nn.Module) -> str:
    """A digest of all that a model's operations depend on: equal for models that do the same with other weights.

    It holds each module's type, settings, shapes, number types, hooks, own forward function, integer and boolean
    buffers, and which parameters require gradients.
    """
    digest = hashlib.sha256()
    for name, module in model.named_modules():
        digest.update(repr((name, _described(type(module)), _described(vars(module)))).encode())
    return digest.hexdigest()


def _described(value: Any) -> Any:
    """A value without a model's weights, and without where in memory it lies."""
    if value is None or isinstance(value, bool | int | float | str | torch.dtype | torch.device):
        return value
    if isinstance(value, Tensor):
        shown = value.dtype, tuple(value.shape), value.requires_grad
        return shown if value.dtype.is_floating_point else (*shown, value.tolist())
    if isinstance(value, Mapping):
        # Hooks have numbers for keys that no two models share; what matters is their order.
        return [(None if isinstance(key, int) else str(key), _described(held)) for key, held in value.items()]
    if isinstance(value, list | tuple):
        return [_described(held) for held in value]
    if isinstance(value, set | frozenset):
        return sorted(repr(_described(held)) for held in value)
    if isinstance(value, PreTrainedConfig | PeftConfig):
        return _described(value.to_dict())
    if isinstance(value, partial):
        return _described(value.func), _described(value.args), _described(value.keywords)
    kind = value if isinstance(value, type) or hasattr(value, "__qualname__") else type(value)
    return f"{kind.__module__}.{kind.__qualname__}"
