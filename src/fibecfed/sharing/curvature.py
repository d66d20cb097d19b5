"""A device's loss as a function of its LoRA parameters: gradients, Hessian-vector products, its lossless share."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from fibecfed.errors import InputError
from fibecfed.sharing.sensitivity import evaluating
from fibecfed.sharing.spectrum import (
    Ritz,
    kept_fraction,
    lanczos,
    lipschitz,
    plateau_count,
    ritz_gap_count,
)
from fibecfed.tasks.base import Batch, Task

_TWICE = (None, "eager", "sdpa")  # Hugging Face attention that can be differentiated twice
_NO_DERIVATIVE = "derivative for"  # how torch says that a backward pass has none of its own


class DeviceLoss:
    """F(theta): the mean loss over a device's batches as a function of the named parameters, in that order.

    Vectors are (d,) float64 numpy arrays. Evaluation mode; batches must be on the model's device. A call leaves
    every value, mode, ``.grad`` and ``requires_grad`` of the model as it was.
    Arithmetic inside a batch is the model's own (fp32), the sum over batches is float64.
    Raises InputError for an unknown name, no name or no example.
    """

    def __init__(self, model: nn.Module, task: Task, batches: Sequence[Batch], names: Sequence[str]) -> None:
        known = dict(model.named_parameters())
        unknown = [name for name in names if name not in known]
        if unknown or not names:
            raise InputError(f"The model has no parameter {unknown or 'to differentiate by'}; give names it has.")
        self._examples = sum(len(batch) for batch in batches)
        if not self._examples:
            raise InputError("The curvature of a loss needs at least one example.")
        self._model, self._task, self._batches = model, task, tuple(batches)
        self._parameters = [known[name] for name in names]
        self.gradients = 0  # passes over all batches so far: gradients ...
        self.products = 0  # ... and exact products, each a gradient and its own backward pass

    @property
    def dim(self) -> int:
        """d, the number of entries of the named parameters."""
        return sum(p.numel() for p in self._parameters)

    def gradient(self, offset: np.ndarray | None = None) -> np.ndarray:
        """(d,) gradient of F at theta + offset."""
        self.gradients += 1
        total = np.zeros(self.dim)
        with self._differentiable(), self._moved(offset):
            for batch in self._batches:
                total += _flat(self._batch_gradient(batch, again=False))
        return total

    def hessian_product(self, vector: np.ndarray, offset: np.ndarray | None = None, /) -> np.ndarray:
        """(d,) H v at theta + offset, by differentiating the gradient again.

        Raises InputError when part of the model cannot be differentiated twice. Torch itself says nothing about a
        custom autograd function whose gradient it takes for constant.
        """
        for module in self._model.modules():
            attention = getattr(getattr(module, "config", None), "_attn_implementation", None)
            if attention not in _TWICE:
                raise InputError(
                    f"Attention '{attention}' cannot be differentiated twice; load the model with eager or sdpa "
                    "attention, or choose another sharing.count."
                )
        self.products += 1
        parts = [part.to(p) for part, p in zip(self._parts(vector), self._parameters, strict=True)]
        total = np.zeros(self.dim)
        with self._differentiable(), self._moved(offset):
            for batch in self._batches:
                try:
                    total += _flat(self._batch_product(batch, parts))
                except RuntimeError as error:
                    if _NO_DERIVATIVE not in str(error):
                        raise
                    raise InputError(
                        f"The model cannot be differentiated twice ({error}); choose another sharing.count."
                    ) from error
        return total

    def _batch_gradient(self, batch: Batch, again: bool) -> tuple[Tensor, ...]:
        loss = self._task.losses(self._model, batch).sum() / self._examples
        return torch.autograd.grad(
            loss, self._parameters, create_graph=again, allow_unused=True, materialize_grads=True
        )

    def _batch_product(self, batch: Batch, parts: list[Tensor]) -> tuple[Tensor, ...]:
        slopes = zip(self._batch_gradient(batch, again=True), parts, strict=True)
        # A parameter the loss is linear in has a constant gradient: nothing to differentiate.
        curved = [(slope, part) for slope, part in slopes if slope.requires_grad]
        if not curved:
            return tuple(torch.zeros_like(p) for p in self._parameters)
        return torch.autograd.grad(
            [slope for slope, _ in curved],
            self._parameters,
            grad_outputs=[part for _, part in curved],
            allow_unused=True,
            materialize_grads=True,
        )

    @contextmanager
    def _differentiable(self) -> Iterator[None]:
        """Gradients by the named parameters only, with attention that has a second derivative."""
        wanted = {id(p) for p in self._parameters}
        before = [(p, p.requires_grad) for p in self._model.parameters()]
        try:
            for p, _ in before:
                p.requires_grad_(id(p) in wanted)
            # The fused kernels behind scaled_dot_product_attention can be differentiated only once.
            with evaluating(self._model), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
                yield
        finally:
            for p, required in before:
                p.requires_grad_(required)

    @contextmanager
    def _moved(self, offset: np.ndarray | None) -> Iterator[None]:
        """theta + offset for a while; the old values come back bit by bit."""
        if offset is None:
            yield
            return
        before = [p.detach().clone() for p in self._parameters]
        try:
            with torch.no_grad():
                for p, old, part in zip(self._parameters, before, self._parts(offset), strict=True):
                    p.copy_(old.cpu().double() + part)
            yield
        finally:
            with torch.no_grad():
                for p, old in zip(self._parameters, before, strict=True):
                    p.copy_(old)

    def _parts(self, vector: np.ndarray) -> list[Tensor]:
        """A (d,) vector cut into the parameters' shapes, float64 on the CPU."""
        if vector.shape != (self.dim,):
            raise InputError(f"A vector of shape {vector.shape} does not fit {self.dim} parameters.")
        pieces = torch.from_numpy(np.ascontiguousarray(vector, dtype=np.float64)).split(
            [p.numel() for p in self._parameters]
        )
        return [piece.view(p.shape) for piece, p in zip(pieces, self._parameters, strict=True)]


@dataclass(frozen=True)
class LosslessShare:
    """What one device found: r_k = 1 - m/d (None: no gap) and the numbers behind it."""

    fraction: float | None
    lipschitz: float
    radius: float  # on which the Lipschitz constant was estimated
    spectrum: Ritz


def lossless_share(
    loss: DeviceLoss,
    radius: float,
    steps: int,
    samples: int,
    rng: np.random.Generator,
) -> LosslessShare:
    """The share of parameters that must stay for no loss, by the gap rule, on one device's data.

    ``radius``: the distance LoRA moves in a local round. Costs ``steps`` + 2 * ``NORM_STEPS`` * ``samples``
    Hessian-vector products; ``loss`` counts them.
    Source: FedDUAP and FedPepTAO [L]; the radius and the use of Ritz values [D] (docs/method.md section 5).
    """
    product = loss.hessian_product
    ritz = lanczos(product, loss.dim, steps, rng)
    constant = lipschitz(product, loss.dim, radius, samples, rng)
    return LosslessShare(kept_fraction(ritz_gap_count(ritz, constant), loss.dim), constant, radius, ritz)


def plateau_share(loss: DeviceLoss, steps: int, probes: int, rng: np.random.Generator) -> float | None:
    """The share of parameters above the first plateau of the tail mass, from ``probes`` Lanczos runs; None without one.

    Costs ``steps`` * ``probes`` Hessian-vector products; ``loss`` counts them.
    Source: a reading of the group's own code [L], see ``plateau_count``.
    """
    runs = [lanczos(loss.hessian_product, loss.dim, steps, rng) for _ in range(probes)]
    return kept_fraction(plateau_count(runs), loss.dim)


def _flat(parts: Sequence[Tensor]) -> np.ndarray:
    """(d,) float64; to the CPU first, because not every accelerator has float64."""
    return torch.cat([part.detach().cpu().double().flatten() for part in parts]).numpy()
