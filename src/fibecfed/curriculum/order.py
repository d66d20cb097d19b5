"""In which order a device's examples join the curriculum, and which of them train.

Positions count a device's own examples from 0 to n-1.
"""

from dataclasses import dataclass

import numpy as np

from fibecfed.curriculum.pacing import capped_size
from fibecfed.errors import InputError, RunFailed

UNIFORM_SHARE = 0.1  # of importance sampling; bounds the weights by 10 (project decision)


@dataclass(frozen=True)
class Selection:
    """The m examples of one round. ``weights`` multiply their losses; None: all 1."""

    positions: np.ndarray  # (m,) int64
    weights: np.ndarray | None = None  # (m,) float64


@dataclass(frozen=True)
class Order:
    """A nested order: every round takes a prefix of it, so no example is dropped once it has joined.

    ``ends`` are the prefix lengths that do not cut a unit, ascending, the last one n.
    """

    positions: np.ndarray  # (n,) int64
    ends: np.ndarray  # (units,) int64

    def prefix(self, count: int, cap: float = 1.0) -> Selection:
        """The first ``count`` examples, rounded up to whole units, and never more than cap * n (but one).

        A cap drops the hardest examples for good: where targets are noisy they are often the wrong ones.
        Source: docs/method.md section 4 [D]. Raises InputError for a cap outside (0, 1].
        """
        if not len(self.positions):
            return Selection(self.positions)
        most = capped_size(cap, len(self.positions))
        allowed = self.ends[self.ends <= most]
        if not len(allowed):  # the first unit alone is above the cap
            allowed = np.array([most])
        end = int(allowed[min(int(np.searchsorted(allowed, count)), len(allowed) - 1)])
        return Selection(self.positions[:end])


def easy_first(scores: np.ndarray, groups: np.ndarray, stratified: bool = True) -> Order:
    """Order by difficulty (n,), ascending, ties by position.

    Stratified: the example of rank r (from 0) among the n_c of its group comes at (r + 0.5) / n_c; ties by group,
    then position. Every prefix then holds each group in proportion, off by at most 1/2 + (C - 2)/2 * n_c/n examples
    for the C groups present: half an example for two groups.
    Source: docs/method.md section 4: easy first [P], stratification [D]; the quantile is a project decision (it is
    Sainte-Lague's). Raises RunFailed for scores that are not finite.
    """
    ranked = _ascending(scores)
    if not stratified:
        return _by_example(ranked)
    place = np.empty(len(ranked))
    for group in np.unique(groups):
        own = ranked[groups[ranked] == group]
        place[own] = (np.arange(len(own)) + 0.5) / len(own)
    return _by_example(np.lexsort((np.arange(len(ranked)), groups, place)))


def batches_easy_first(scores: np.ndarray, batch_size: int, rng: np.random.Generator) -> Order:
    """Fixed batches, drawn once by ``rng``, in ascending order of mean difficulty, ties by draw; prefixes are whole.

    The last batch drawn may be smaller. Not stratified: a random batch has the device's groups on average.
    Source: docs/method.md section 4 [D]. Raises RunFailed for scores that are not finite, InputError for
    batch_size < 1.
    """
    if batch_size < 1:
        raise InputError(f"Batches of {batch_size} examples cannot be ordered; the size must be at least 1.")
    _ascending(scores)
    drawn = rng.permutation(len(scores))
    batches = [drawn[start : start + batch_size] for start in range(0, len(drawn), batch_size)]
    ranked = np.argsort([scores[batch].mean() for batch in batches], kind="stable")
    ordered = [batches[i] for i in ranked]
    return Order(np.concatenate(ordered) if ordered else drawn, np.cumsum([len(b) for b in ordered], dtype=np.int64))


def random_order(groups: np.ndarray, rng: np.random.Generator, stratified: bool = True) -> Order:
    """The control of every score: the same order over uniform random scores (docs/method.md section 4, random-pace)."""
    return easy_first(rng.random(len(groups)), groups, stratified)


def random_subset(groups: np.ndarray, count: int, rng: np.random.Generator, stratified: bool = True) -> Selection:
    """``count`` random examples; a fresh ``rng`` each round draws afresh (docs/method.md section 4, random-subset)."""
    return random_order(groups, rng, stratified).prefix(count)


def draw(pool: np.ndarray, count: int, rng: np.random.Generator) -> Selection:
    """``count`` uniform draws from the positions ``pool``, ascending: each comes floor or ceil of count / |pool| times.

    Source: Platanios et al. 2019, algorithm 1, where batches are drawn from the easy part; that no example comes
    twice more than another is a project decision.
    """
    whole, rest = divmod(count, len(pool))
    drawn = np.concatenate([np.repeat(pool, whole), rng.permutation(pool)[:rest]])
    return Selection(np.sort(drawn))


def importance_sample(
    difficulty: np.ndarray, count: int, rng: np.random.Generator, uniform_share: float = UNIFORM_SHARE
) -> Selection:
    """``count`` draws with p_i = (1 - u) sqrt(d_i) / sum sqrt(d) + u / n, and weights 1 / (n p_i).

    Systematic draws in a random order: example i comes floor or ceil of count * p_i times. The weighted mean of any
    quantity over the draws is unbiased for its mean over the n examples, so the weights are 1 on average; no weight
    is above 1 / u. Where all difficulties are 0 the draws are uniform.
    For the rounds after the easy prefix has reached all data. Source: docs/method.md section 4 [D]; sqrt(d), the norm
    of the gradient, is the proportion of least variance; u is a project decision. Raises RunFailed for difficulties
    that are not finite or negative, InputError for u outside (0, 1] or a count below 1.
    """
    if not 0 < uniform_share <= 1:
        raise InputError(f"The uniform share of importance sampling is {uniform_share}; it must be in (0, 1].")
    if count < 1 or not len(difficulty):
        raise InputError(f"Importance sampling cannot draw {count} of {len(difficulty)} examples.")
    examples = len(_ascending(difficulty))
    if (difficulty < 0).any():
        raise RunFailed("A difficulty is negative; importance sampling needs squared gradient norms.")
    norms = np.sqrt(np.asarray(difficulty, dtype=np.float64))
    total = norms.sum()
    chances = (
        (1 - uniform_share) * norms / total + uniform_share / examples if total else np.full(examples, 1 / examples)
    )
    mixed = rng.permutation(examples)
    cumulative = np.cumsum(chances[mixed])
    points = (rng.random() + np.arange(count)) / count * cumulative[-1]
    drawn = mixed[np.minimum(np.searchsorted(cumulative, points, side="right"), examples - 1)]
    return Selection(drawn, 1 / (examples * chances[drawn]))


def _ascending(scores: np.ndarray) -> np.ndarray:
    values = np.asarray(scores, dtype=np.float64)
    if not np.isfinite(values).all():
        bad = int(np.flatnonzero(~np.isfinite(values))[0])
        raise RunFailed(f"The difficulty of a device's example {bad + 1} is {values[bad]}; no order can be made of it.")
    return np.argsort(values, kind="stable")


def _by_example(positions: np.ndarray) -> Order:
    return Order(positions, np.arange(1, len(positions) + 1))
