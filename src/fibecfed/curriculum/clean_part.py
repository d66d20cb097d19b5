"""How much of a device's data is wrong, as its difficulties show it."""

from dataclasses import dataclass

import numpy as np

_QUANTILES = (0.5, 0.7, 0.9)  # where expectation maximization starts to split
_ROUNDS = 200
_SMALLEST_PART = 0.01  # of the whole variance: no component may shrink onto a few equal scores
_STRONG = 10.0  # difference of BIC that Kass and Raftery 1995 call very strong
_APART = 2.0  # Ashman's D from which two components are apart (Ashman, Bird and Zepf 1994)
_FEWEST = 10  # examples that a mixture can be fitted to


@dataclass(frozen=True)
class Mixture:
    """Two normal components of values in one dimension, the lower first."""

    shares: np.ndarray  # (2,) sum 1
    means: np.ndarray  # (2,)
    variances: np.ndarray  # (2,)
    log_likelihood: float

    @property
    def separation(self) -> float:
        """Ashman's D: the distance of the means over the root mean square of the two standard deviations."""
        return float((self.means[1] - self.means[0]) / np.sqrt(self.variances.mean()))


def clean_part(difficulty: np.ndarray) -> float:
    """The part of the examples whose target is right, in (0.5, 1], from their difficulties (n,), all at least 0.

    A model that has learned something is far more surprised by a wrong target: log d then has two components, and the
    share of the upper one is the noisy part. It is 0 unless two components fit much better than one (BIC), are well
    apart, and the upper one is the smaller. Scores of a model that knows nothing show no such thing.
    Source: project decision (docs/method.md section 4), after the two-component fit on losses of Arazo et al. 2019.
    """
    values = np.asarray(difficulty, dtype=np.float64)
    positive = values[values > 0]
    if len(positive) < _FEWEST:
        return 1.0
    logs = np.log(np.maximum(values, positive.min()))
    spread = logs.var()
    if spread == 0:
        return 1.0
    found = two_components(logs)
    single = -0.5 * len(logs) * (np.log(2 * np.pi * spread) + 1)
    gain = 2 * (found.log_likelihood - single) - 3 * np.log(len(logs))  # five parameters against two
    if gain < _STRONG or found.separation < _APART or found.shares[1] >= 0.5:
        return 1.0
    return float(1 - found.shares[1])


def two_components(values: np.ndarray) -> Mixture:
    """The likeliest mixture of two normals that expectation maximization finds from a few splits of (n,) values."""
    return max((_maximized(values, quantile) for quantile in _QUANTILES), key=lambda mixture: mixture.log_likelihood)


def _maximized(values: np.ndarray, quantile: float) -> Mixture:
    least = _SMALLEST_PART * values.var()
    upper = (values > np.quantile(values, quantile)).astype(np.float64)
    if not upper.any():
        upper = (values >= values.max()).astype(np.float64)
    chances = np.stack([1 - upper, upper])  # (2, n)
    before = -np.inf
    for _ in range(_ROUNDS):
        weights = np.maximum(chances.sum(axis=1), 1e-9)
        means = chances @ values / weights
        variances = np.maximum((chances * (values - means[:, None]) ** 2).sum(axis=1) / weights, least)
        shares = weights / weights.sum()
        logs = np.log(shares)[:, None] - 0.5 * (
            np.log(2 * np.pi * variances)[:, None] + (values - means[:, None]) ** 2 / variances[:, None]
        )
        whole = np.logaddexp(logs[0], logs[1])
        chances = np.exp(logs - whole)
        likelihood = float(whole.sum())
        if likelihood - before < 1e-8 * len(values):
            break
        before = likelihood
    order = np.argsort(means, kind="stable")
    return Mixture(shares[order], means[order], variances[order], likelihood)
