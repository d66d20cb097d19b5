"""Which layers are shared, how many of them, and whether the choice means anything."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fibecfed.errors import InputError, RunFailed


def rank_layers(scores: Sequence[float] | np.ndarray) -> tuple[int, ...]:
    """The L layers by falling score, ties by lower index. Raises RunFailed for a score that is not finite."""
    values = np.asarray(scores, dtype=np.float64)
    if not np.isfinite(values).all():
        raise RunFailed("The layer scores are not finite; no layers can be chosen by them.")
    return tuple(int(layer) for layer in np.argsort(-values, kind="stable"))


def fixed_count(count: int | float, layers: int) -> int:
    """How many of L layers: an int as it is, a float as a fraction of L (nearest, halves up, at least 1).

    So 1 is one layer and 1.0 is all of them. Raises InputError outside 1..L and (0, 1].
    """
    if isinstance(count, float):
        if not 0 < count <= 1:
            raise InputError(f"{count} is no fraction of the layers; give a number above 0 and at most 1.")
        return max(1, math.floor(count * layers + 0.5))
    if not 1 <= count <= layers:
        raise InputError(f"{count} layers cannot be chosen; the model has {layers}, choose 1 to {layers}.")
    return count


@dataclass(frozen=True)
class FunctionalCount:
    """``count`` layers suffice; ``losses[i]`` is the held-out loss with the i+1 best kept, up to ``count``."""

    count: int
    full_loss: float
    losses: tuple[float, ...]


def functional_count(
    order: Sequence[int], loss_with: Callable[[frozenset[int]], float], tolerance: float = 0.01
) -> FunctionalCount:
    """The smallest N >= 1 whose N best layers carry the loss: resetting the others raises it by <= ``tolerance``.

    ``order``: the L layers, best first; ``loss_with(kept)``: held-out loss with the LoRA of all other layers
    reset, asked for all layers once and then for N = 1, 2, ... (the loss need not fall with N, so no
    bisection): at most L evaluations. Relative: loss <= full * (1 + tolerance).
    Source: docs/method.md section 5 [D]. Raises InputError for no layers, RunFailed for a full loss that is not finite.
    """
    if not order:
        raise InputError("There are no layers to count.")
    full = float(loss_with(frozenset(order)))
    if not math.isfinite(full):
        raise RunFailed("The held-out loss of the whole model is not finite; layers cannot be counted by it.")
    losses: list[float] = []
    for count in range(1, len(order)):
        losses.append(float(loss_with(frozenset(order[:count]))))
        if losses[-1] <= full * (1 + tolerance):
            return FunctionalCount(count, full, tuple(losses))
    return FunctionalCount(len(order), full, (*losses, full))


@dataclass(frozen=True)
class LosslessCount:
    """N by the lossless rule, or None where no device found a gap (or plateau); ``reason`` says it in a sentence."""

    count: int | None
    found: int  # devices whose spectrum has a gap
    without: int  # devices left out because theirs has none
    reason: str


def lossless_count(fractions: Mapping[int, tuple[float | None, int]], layers: int) -> LosslessCount:
    """N = L * sum_k (n_k / n) r_k to the nearest integer, halves up, at least 1, from devices with (r_k, n_k).

    A device with r_k = None found no gap: it is left out of the mean and counted. If all did, there is no N, and
    it is for the caller to say what is used instead.
    Source: FedDUAP and FedPepTAO [L]; leaving devices out, and at least 1, are project decisions (docs/method.md
    section 5). Raises RunFailed for no devices, a fraction outside 0..1, or no examples behind them.
    """
    found = {device: (r, n) for device, (r, n) in sorted(fractions.items()) if r is not None}
    for device, (r, n) in found.items():
        if not 0 <= r <= 1 or n < 0:
            raise RunFailed(f"Device {device} sent {r} as its lossless fraction, from {n} examples.")
    examples, without = sum(n for _, n in found.values()), len(fractions) - len(found)
    if not fractions or (found and not examples):
        raise RunFailed("No lossless fraction with an example behind it was sent; layers cannot be counted by it.")
    if not found:
        reason = f"The spectrum gives no count: it has no gap or plateau on any of {without} devices."
        return LosslessCount(None, 0, without, reason)
    mean = sum(n / examples * r for r, n in found.values())
    count = max(1, math.floor(mean * layers + 0.5))
    reason = f"{count} of {layers} layers: the mean lossless fraction of {len(found)} devices is {mean:.3g}"
    reason += f"; {without} more found no gap or plateau and were left out." if without else "."
    return LosslessCount(count, len(found), without, reason)
