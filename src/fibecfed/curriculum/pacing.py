"""How much of a device's data is in use in which round."""

import math
from typing import Literal

from fibecfed.errors import InputError

Pacing = Literal["linear", "sqrt", "exp"]

START = 0.6  # beta, docs/method.md section 4 [D]
FULL_AT = 0.8  # tau, docs/method.md section 4 [D]

_ROUNDING = 1e-9  # keeps 0.55 * 100 = 55.000000000000007 from becoming 56 examples


def prefix_fraction(kind: Pacing, step: int, steps: int, start: float = START, full_at: float = FULL_AT) -> float:
    """c(t), the part of a device's ordered data that is used, in [start, 1].

    ``step`` is t, the number of rounds since the warm-up, from 0: the first round after the warm-up uses exactly
    ``start``. ``steps`` is T, the rounds after the warm-up. All data is in use from t >= full_at * T on. With
    p = t / (full_at * T) before that:

    - linear: start + (1 - start) p
    - sqrt: sqrt(start^2 + (1 - start^2) p)    (Platanios et al. 2019, equation 7 with its competence c0 = start)
    - exp: start^(1 - p), the same factor every round

    Source: easy first and growing with the round [P]; shapes, counting from 0 and the values [D] (docs/method.md
    section 4). Raises InputError for an unknown kind, or ``start`` or ``full_at`` outside (0, 1].
    """
    for name, value in (("start", start), ("full_at", full_at)):
        if not 0 < value <= 1:
            raise InputError(f"The curriculum's {name} is {value}; it must be above 0 and at most 1.")
    if step < 0 or steps < 1:
        raise ValueError(f"round {step} of {steps}")
    progress = step / (full_at * steps)
    if progress >= 1:
        return 1.0
    if kind == "linear":
        return start + (1 - start) * progress
    if kind == "sqrt":
        return math.sqrt(start**2 + (1 - start**2) * progress)
    if kind == "exp":
        return start ** (1 - progress)
    raise InputError(f"'{kind}' is no pacing; use linear, sqrt or exp.")


def prefix_size(fraction: float, examples: int) -> int:
    """Examples in a prefix: fraction * n rounded up, at least 1, at most n. Source: project decision."""
    return min(examples, max(1, math.ceil(fraction * examples - _ROUNDING)))


def capped_size(cap: float, examples: int) -> int:
    """The most examples a capped prefix may have: cap * n rounded down, but at least 1. Source: project decision.

    Raises InputError for a cap outside (0, 1].
    """
    if not 0 < cap <= 1:
        raise InputError(f"The curriculum's cap is {cap}; it must be above 0 and at most 1.")
    return min(examples, max(1, math.floor(cap * examples + _ROUNDING)))
