"""The numbers of a comparison: spread, time to a target, ranks, gains with paired intervals. No input, no output."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from fibecfed.results import judged_stage, score_of, sign_of

CONSECUTIVE = 3  # evaluations whose mean must reach the target (docs/method.md section 7)
NO_CLAIM = 0.02  # of the score; a ridge head this near to centralized training leaves nothing to claim
RIDGE, CENTRALIZED = "ridge-head", "centralized-lora"


@dataclass(frozen=True)
class Spread:
    """A mean over seeds and the sample standard deviation; None with one seed."""

    mean: float
    deviation: float | None


@dataclass(frozen=True)
class Interval:
    """A mean of n paired differences and its 95 % interval; the bounds are None for fewer than two."""

    mean: float
    low: float | None
    high: float | None
    pairs: int


def spread(values: Sequence[float]) -> Spread:
    """Mean and sample standard deviation (n - 1)."""
    return Spread(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None)


def paired_interval(differences: Sequence[float], level: float = 0.95) -> Interval:
    """Student's t interval of the mean of paired differences: mean ± t(n - 1) s / sqrt(n)."""
    n, mean = len(differences), float(np.mean(differences))
    if n < 2:
        return Interval(mean, None, None, n)
    half = float(stats.t.ppf((1 + level) / 2, n - 1)) * float(np.std(differences, ddof=1)) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n)


def reached(curve: Sequence[Mapping[str, Any]], target: float, protocol: str = "global") -> Mapping[str, Any] | None:
    """The evaluation at which the mean score of three consecutive ones first reaches the target, or is better.

    A judged stage at the end, whose evaluation is the run's final number, reaches it alone as well.

    Its cumulative costs are those to the target. None: never reached, or fewer than three evaluations. A run that
    needs no training has one evaluation: it is not held to have reached anything in time. Source: docs/method.md
    section 7; that the global protocol counts by default is this project's decision [D].
    """
    sign = sign_of(curve)
    least = sign * target - 1e-12
    for last in range(CONSECUTIVE - 1, len(curve)):
        window = [sign * score_of(r, protocol) for r in curve[last - CONSECUTIVE + 1 : last + 1]]
        if sum(window) / CONSECUTIVE >= least:  # a sum of thirds must not miss by rounding
            return curve[last]
    if judged_stage(curve) and sign * score_of(curve[-1], protocol) >= least:
        return curve[-1]
    return None


def average_ranks(settings: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean over settings of each method's rank by score, the higher the better; 1 is best, ties share their rank.

    Raises ValueError if the settings hold different methods.
    """
    names = list(settings[0])
    if any(set(s) != set(names) for s in settings):
        raise ValueError("ranks need the same methods in every setting")
    ranks = [stats.rankdata([-s[name] for name in names]) for s in settings]
    return dict(zip(names, np.mean(ranks, axis=0).tolist(), strict=True))


def ratio(value: float | None, reference: float | None) -> float | None:
    """value / reference; None where one is missing or the reference is 0."""
    return None if value is None or not reference else value / reference


def carries_no_claim(ridge: float | None, centralized: float | None) -> bool:
    """Whether a closed-form head is at most two points below centralized training: nothing was left to learn."""
    return ridge is not None and centralized is not None and centralized - ridge <= NO_CLAIM + 1e-12
