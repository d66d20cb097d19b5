"""How strongly each layer reacts to noise on the embeddings, and how far devices agree on its update."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from fibecfed.errors import InputError, RunFailed
from fibecfed.tasks.base import Batch
from fibecfed.tuning.layout import Layout

# What the noise follows: a loss gradient (B, T, d) is the worst case, a generator gives Gaussian noise. Of numpy:
# torch's normal numbers depend on how many are drawn at once, so they would change with the batch size.
NoiseDirection = Tensor | np.random.Generator


@dataclass(frozen=True)
class LayerChange:
    """Sums over examples of how L layers answer a perturbation; additive over batches.

    ``change``: ||h'-h|| / ||h|| of each layer's output; ``gain``: that over the relative change
    of the layer's input. Both (L,) float64, no unit. ``examples`` is how many were summed.
    """

    change: np.ndarray
    gain: np.ndarray
    examples: int

    def __add__(self, other: "LayerChange") -> "LayerChange":
        return LayerChange(self.change + other.change, self.gain + other.gain, self.examples + other.examples)

    def scores(self, kind: Literal["sensitivity", "gain"]) -> np.ndarray:
        """(L,) mean over examples. Raises RunFailed when no example was perturbed."""
        if not self.examples:
            raise RunFailed("No example could be perturbed: every loss gradient at the embeddings is zero.")
        return (self.change if kind == "sensitivity" else self.gain) / self.examples


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode (no dropout) for a while; every module's own mode is put back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def perturbation(hidden: Tensor, mask: Tensor, noise_direction: NoiseDirection, sigma: float) -> Tensor:
    """Noise eps (B, T, d) with ||eps|| = sigma * ||hidden|| for every example, zero on padding.

    Both norms run over an example's non-padding tokens and all channels. ``mask`` (B, T) is 1 for a
    real token. Gaussian noise is drawn for real tokens only, example after example, so neither padding
    nor the cut into batches changes it. An example whose direction is zero gets no noise.
    Source: docs/method.md section 5 [D]. Raises InputError for sigma <= 0 or a direction of another shape.
    """
    if not sigma > 0:
        raise InputError(f"The noise level sigma is {sigma}; it must be above 0.")
    real = mask.bool()
    if tuple(hidden.shape[:2]) != tuple(real.shape):
        raise InputError(
            f"Layer 0 receives hidden states of shape {tuple(hidden.shape)} for {tuple(real.shape)} tokens; "
            "layer sensitivity needs one vector per token (no packed sequences, no virtual tokens)."
        )
    wide = _wide(hidden)
    if isinstance(noise_direction, Tensor):
        if noise_direction.shape != hidden.shape:
            raise InputError(f"The gradient has shape {tuple(noise_direction.shape)}, expected {tuple(hidden.shape)}.")
        direction = torch.where(real[..., None], noise_direction.to(wide), 0.0)
    else:
        direction = torch.zeros_like(wide)
        drawn = noise_direction.standard_normal((int(real.sum()), hidden.shape[-1]))
        direction[real] = torch.from_numpy(drawn).to(wide.dtype).to(wide.device)
    wanted, found = sigma * _norms(wide, real), _norms(direction, real)
    if not bool(torch.isfinite(wanted).all() and torch.isfinite(found).all()):
        raise RunFailed("The embeddings, or the loss gradient at them, are not finite.")
    scale = torch.where(found > 0, wanted / found, 0.0)
    return (direction * scale[:, None, None]).to(hidden.dtype)


@torch.no_grad()
def layer_sensitivity(
    model: nn.Module, blocks: Iterable[nn.Module], batch: Batch, noise_direction: NoiseDirection, sigma: float
) -> LayerChange:
    """The answer of each of L layers to noise on the hidden states that enter layer 0.

    ``blocks`` are the transformer layers, lowest first; each returns (B, T, d) or a tuple that begins with
    it, taken before any final norm. The noise is ``perturbation``. The input of a layer is the output of
    the one below. Two forward passes in evaluation mode, no backward; norms in float64, over the positions
    that the loss reads (``Batch.read``). An example that gets no noise is left out of the sums and of ``examples``.
    Source: docs/method.md section 5: the idea [P], noise, score and gain [D]. Raises InputError as ``perturbation``.
    """
    stack = list(blocks)
    with evaluating(model):
        clean = _hidden_states(model, stack, batch, None)
        noise = perturbation(clean[0], batch.attention_mask, noise_direction, sigma)
        noisy = _hidden_states(model, stack, batch, noise)
    relative = torch.stack([_relative_change(*pair, batch.read) for pair in zip(noisy, clean, strict=True)])  # (L+1, B)
    relative = relative[:, relative[0] > 0]
    change, gain = relative[1:].sum(dim=1), (relative[1:] / relative[:-1]).sum(dim=1)
    return LayerChange(change.double().cpu().numpy(), gain.double().cpu().numpy(), relative.shape[1])


class ConsensusSum:
    """Update consensus of each layer, one device at a time; holds one update, however many devices there are.

    Fold in device order: the sums are float64, and their last bits depend on the order.
    Source: docs/method.md section 5 [D].
    """

    def __init__(self, layout: Layout) -> None:
        self._parameters = [p for p in layout if p.layer is not None]
        self._layers = layout.layers
        self._sums: dict[str, Tensor] = {p.name: torch.zeros(p.shape, dtype=torch.float64) for p in self._parameters}
        self._squares = np.zeros(layout.layers)  # sum_k w_k ||D_k^l||^2
        self._weight = 0.0

    def fold(self, update: Mapping[str, Tensor], weight: float) -> None:
        """Add one device's update, tensors by name; those outside the layers are ignored; a missing one: KeyError."""
        if not weight > 0:
            raise RunFailed(f"An update came with weight {weight}; it must be above 0.")
        for p in self._parameters:
            value = update[p.name].detach().cpu().double()
            self._sums[p.name] += weight * value
            self._squares[p.layer] += weight * float(value.square().sum())
        self._weight += weight

    def result(self) -> np.ndarray:
        """(L,) ||sum_k w_k D_k^l||^2 / sum_k w_k ||D_k^l||^2, w normalised: 1 all devices agree, 0 they cancel.

        A layer that no device moved has 0. Raises RunFailed before the first device.
        """
        if not self._weight:
            raise RunFailed("No device sent an update to take the consensus of.")
        mean = np.zeros(self._layers)
        for p in self._parameters:
            mean[p.layer] += float((self._sums[p.name] / self._weight).square().sum())
        squares = self._squares / self._weight
        return np.divide(mean, squares, out=np.zeros_like(mean), where=squares > 0)


def _hidden_states(model: nn.Module, stack: Sequence[nn.Module], batch: Batch, noise: Tensor | None) -> list[Tensor]:
    """L+1 times (B, T, d): what enters layer 0, noise added if there is any, then each layer's output."""
    found: list[Tensor] = []

    def enter(
        _: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        hidden: Tensor = arguments[0] if arguments else keywords["hidden_states"]
        found.append(hidden if noise is None else hidden + noise)
        if arguments:
            return (found[-1], *arguments[1:]), keywords
        return arguments, {**keywords, "hidden_states": found[-1]}

    def leave(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        found.append(output if isinstance(output, Tensor) else output[0])

    hooks = [stack[0].register_forward_pre_hook(enter, with_kwargs=True)]
    hooks += [block.register_forward_hook(leave) for block in stack]
    try:
        model(batch)
    finally:
        for hook in hooks:
            hook.remove()
    if len(found) != len(stack) + 1:
        raise InputError(f"The model's {len(stack)} layers ran {len(found) - 1} times; each must run exactly once.")
    return found


def _wide(values: Tensor) -> Tensor:
    """float64, where the hardware has it."""
    return values.float() if values.device.type == "mps" else values.double()


def _norms(values: Tensor, real: Tensor) -> Tensor:
    """(B,) norm over non-padding tokens and channels. Selects, not multiplies: padding may hold NaN."""
    return torch.where(real[..., None], values, 0.0).square().sum(dim=(1, 2)).sqrt()


def _relative_change(noisy: Tensor, clean: Tensor, real: Tensor) -> Tensor:
    """(B,)"""
    wide = _wide(clean)
    return _norms(_wide(noisy) - wide, real) / _norms(wide, real)
