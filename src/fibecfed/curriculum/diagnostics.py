"""Whether scores say more than the group does, and whether they last."""

from dataclasses import dataclass

import numpy as np

from fibecfed.errors import InputError

GROUP_SHARE_WARNING = 0.3  # docs/method.md section 2 [D]


def group_share(scores: np.ndarray, groups: np.ndarray) -> float | None:
    """eta^2: the share of the variance of the scores' ranks (ties averaged) that the group explains, in [0, 1].

    One-way ANOVA on ranks: between-group over total sum of squares. None where it is undefined: fewer than two
    examples, or all scores equal. Groups that mean nothing still get (G - 1)/(n - 1) on average
    (``group_share_by_chance``), which for few examples is much.
    Source: docs/method.md section 2 [D].
    """
    ranks = _centred_ranks(scores)
    total = float(ranks @ ranks)
    if not total:
        return None
    sizes = np.bincount(groups)
    sums = np.bincount(groups, weights=ranks)[sizes > 0]
    return float(np.sum(sums**2 / sizes[sizes > 0]) / total)


def group_share_by_chance(groups: np.ndarray) -> float:
    """The mean of ``group_share`` over random scores without ties: (G - 1)/(n - 1) for the G groups present."""
    return (len(np.unique(groups)) - 1) / max(1, len(groups) - 1)


def rank_stability(before: np.ndarray, after: np.ndarray) -> float | None:
    """Spearman's correlation of two score vectors of the same examples, in [-1, 1]; ties averaged.

    None where it is undefined: fewer than two examples, or all scores of one vector equal.
    Source: docs/method.md section 2 [D]. Raises ValueError for vectors of different lengths.
    """
    if before.shape != after.shape:
        raise ValueError(f"{before.shape} and {after.shape} scores cannot be compared")
    first, second = _centred_ranks(before), _centred_ranks(after)
    scale = float(np.sqrt(first @ first) * np.sqrt(second @ second))
    return float(np.clip(first @ second / scale, -1, 1)) if scale else None


@dataclass(frozen=True)
class LogHistogram:
    """Counts (bins,) of positive scores between edges (bins + 1,) that grow by one factor; zeros stand apart."""

    edges: list[float]
    counts: list[int]
    zeros: int


def log_histogram(scores: np.ndarray, bins: int = 20) -> LogHistogram:
    """A histogram on a logarithmic scale from the smallest to the largest positive score, for saving.

    Without any positive score there are no bins. Raises InputError for a score that is negative or not finite.
    """
    values = np.asarray(scores, dtype=np.float64)
    if not (np.isfinite(values) & (values >= 0)).all():
        raise InputError("Only scores that are finite and not negative have a histogram on a logarithmic scale.")
    positive = values[values > 0]
    if not len(positive):
        return LogHistogram([], [], len(values))
    counts, edges = np.histogram(np.log10(positive), bins=bins)
    return LogHistogram((10.0**edges).tolist(), counts.tolist(), len(values) - len(positive))


def _centred_ranks(scores: np.ndarray) -> np.ndarray:
    """(n,) ranks with mean 0; exactly 0 where all are tied."""
    _, place, ties = np.unique(scores, return_inverse=True, return_counts=True)  # scipy.stats takes long to import
    mean_rank = np.cumsum(ties) - (ties - 1) / 2
    return mean_rank[place] - (len(scores) + 1) / 2
