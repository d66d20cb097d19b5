"""Counting the floating-point operations of training and prediction."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fibecfed.models import blocks
from fibecfed.tasks import Batch, Task

_WIDTHS = (8, 16, 24)


class OperationCounter:
    """Operations of a batch of B examples padded to T tokens: B (c + a T + b T^2).

    a, b and c come from counting three real passes once for each set of trained parameters. Attention is the only
    term quadratic in T; the head and a prompt's own places cost the same for every T. So skipped backward passes are
    counted as skipped, and a second forward pass as a second one.
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

    def below(self, layer: int, sizes: list[tuple[int, int]]) -> float:
        """The part of a forward pass under a layer: layers are alike, and embeddings cost nothing but lookups."""
        layers = len(blocks(self._model.backbone, self._model.backbone.config))
        return self.prediction(sizes) * layer / layers

    def _total(
        self, key: tuple[frozenset[str], bool] | None, sizes: list[tuple[int, int]], passes: Callable[[Batch], None]
    ) -> float:
        if key not in self._coefficients:
            counted = [self._count(width, passes) for width in _WIDTHS]
            system = np.array([[1, width, width**2] for width in _WIDTHS], dtype=np.float64)
            self._coefficients[key] = np.linalg.solve(system, np.array(counted, dtype=np.float64))
        constant, linear, quadratic = self._coefficients[key]
        return float(sum(b * (constant + linear * t + quadratic * t * t) for b, t in sizes))

    def _count(self, width: int, passes: Callable[[Batch], None]) -> int:
        ones = torch.ones(1, width, dtype=torch.int64, device=self._device)
        batch = Batch(ones, ones, torch.zeros(1, dtype=torch.int64, device=self._device))
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
