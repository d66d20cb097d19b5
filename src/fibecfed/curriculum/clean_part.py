"""How much of a device's data is wrong, as a model that has learned something says it.

Confident learning (Northcutt, Jiang and Chuang 2021), with thresholds that devices find together.
"""

from typing import NamedTuple

import numpy as np

LEAST_WRONG = 0.2  # of what the model is sure of; below, hard examples and wrong ones cannot be told apart
_HABIT = 3  # examples that show one; fewer may be chance


def confidence_sums(chances: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """(2, G): of each group, the chances that the model gives its own examples, summed, and how many those are.

    ``chances`` (n, G) of every group, ``groups`` (n,) as the data says them. Additive over devices.
    """
    own = chances[np.arange(len(groups)), groups]
    count = chances.shape[1]
    return np.stack([np.bincount(groups, own, count), np.bincount(groups, minlength=count)]).astype(np.float64)


class Suspicion(NamedTuple):
    """What a model that has learned something says against a device's groups. The counts are additive over devices."""

    wrong: int  # examples that the model is sure are not what the data says
    sure: int  # examples that it is sure of
    habitual: np.ndarray  # (n,) bool: examples that a habit of the device explains

    def doubtful(self, difficulty: np.ndarray) -> np.ndarray:
        """(n,) bool: the hardest examples, as many as the share of ``wrong`` makes of all; none that is habitual."""
        count = min(round(self.wrong / max(1, self.sure) * len(difficulty)), len(difficulty) - 1)
        order = np.argsort(np.where(self.habitual, -np.inf, difficulty), kind="stable")
        marked = np.zeros(len(difficulty), dtype=bool)
        marked[order[len(order) - count :]] = True
        return marked & ~self.habitual


def suspicion(chances: np.ndarray, groups: np.ndarray, sums: np.ndarray) -> Suspicion:
    """What ``chances`` (n, G) say of the ``groups`` (n,) that the data gives.

    The model is sure of an example if its likeliest group is at least as likely as, on average, that group is for
    examples that the data puts in it. ``sums`` (2, G) are the ``confidence_sums`` of as many devices as are known.
    It is wrong if the data puts it elsewhere, but for habits: where the device calls most of what the model calls b by
    the name a, and means b by most of a, it is consistent, not wrong.
    Source: project decision (docs/method.md section 4), after Northcutt et al. 2021, whose thresholds these are. Their
    joint is reduced to one share a device; and a group must be the likeliest of all, not of those above their
    threshold, or a group whose examples are mostly wrong, with its low threshold, takes every doubtful example.
    """
    total, counts = sums
    thresholds = np.where(counts > 0, total / np.maximum(counts, 1), np.inf)
    likeliest = chances.argmax(axis=1)
    sure = chances.max(axis=1) >= thresholds[likeliest]
    called = np.zeros((chances.shape[1],) * 2)  # [as the data, as the model] says
    np.add.at(called, (groups[sure], likeliest[sure]), 1)
    most_of_both = (called > called.sum(axis=1, keepdims=True) / 2) & (called > called.sum(axis=0) / 2)
    habits = most_of_both & (called >= _HABIT) & ~np.eye(len(called), dtype=bool)
    habitual = habits[groups, likeliest]
    return Suspicion(int((sure & (likeliest != groups) & ~habitual).sum()), int(sure.sum()), habitual)
