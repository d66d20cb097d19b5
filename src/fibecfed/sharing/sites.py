"""How much sites differ in their mix of groups, and how many layers that leaves to share."""

import math
from collections.abc import Mapping

import numpy as np


def divergence(counts: Mapping[int, np.ndarray]) -> float:
    """D in [0, 1] from each device's examples of each group (G,): 0 alike, 1 where every device has one group only.

    D = sum_k (n_k / n) (TV(pi_k, pi) - E_k) over what it would be with one group each, at least 0. E_k is the
    distance that n_k draws from pi have by chance: few examples look different without being so.
    Source: project decision (docs/method.md section 5). No examples, or one group: 0.
    """
    held = [c.astype(np.float64) for _, c in sorted(counts.items()) if c.sum() > 0]
    if not held:
        return 0.0
    total = np.sum(held, axis=0)
    share, examples = total / total.sum(), total.sum()
    found = chance = 0.0
    for own in held:
        size = own.sum()
        found += size / examples * np.abs(own / size - share).sum() / 2
        chance += size / examples * sum(_mean_deviation(int(size), float(p)) for p in share) / 2
    most = 1 - float((share**2).sum())  # sum_c pi_c (1 - pi_c)
    if most <= chance:
        return 0.0
    return float(min(1.0, max(0.0, (found - chance) / (most - chance))))


def _mean_deviation(draws: int, p: float) -> float:
    """E|X / n - p| of X ~ Binomial(n, p): (2 / n) v (1 - p) P(X = v), v = floor(n p) + 1 (de Moivre)."""
    if not 0 < p < 1:
        return 0.0
    above = math.floor(draws * p) + 1
    if above > draws:  # rounding of a share just below 1
        return 0.0
    logs = math.lgamma(draws + 1) - math.lgamma(above + 1) - math.lgamma(draws - above + 1)
    logs += above * math.log(p) + (draws - above) * math.log1p(-p)
    return 2 / draws * above * (1 - p) * math.exp(logs)


def site_count(differ: float, layers: int, least: int) -> int:
    """N = L - D (L - least) to the nearest integer, halves up: all of L layers where sites are alike."""
    return math.floor(layers - differ * (layers - least) + 0.5)
