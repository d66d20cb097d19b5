"""Eigenvalues of a loss Hessian that is known only by its products, and two readings of "lossless" from them.

Only numpy here: a Hessian is a function v -> Hv over (d,) float64 vectors (``curvature`` makes one from a model).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from fibecfed.errors import InputError, RunFailed

Product = Callable[[np.ndarray], np.ndarray]  # (d,) float64 -> (d,) float64

CONVERGED = 1e-3  # a Ritz value counts when its residual is at most this part of the largest |Ritz value| [D]
PLATEAU_CHANGE = 0.01  # share of all eigenvalues that a plateau may lose ... [D]
PLATEAU_WIDTH = 0.05  # ... over this part of the largest eigenvalue [D]
NORM_STEPS = 10  # Lanczos steps for the norm of one change of the Hessian [D]


_BREAKDOWN = 1e-12  # the Krylov space is exhausted: nothing but rounding is left of a new direction


class HessianProduct(Protocol):
    """(v, D) -> H(theta + D) v, both (d,) float64; at theta without D."""

    def __call__(self, vector: np.ndarray, offset: np.ndarray | None = None, /) -> np.ndarray: ...


@dataclass(frozen=True)
class Ritz:
    """k eigenvalue estimates of a (d, d) symmetric matrix from one Lanczos run.

    ``values`` (k,) ascending. ``residuals`` (k,): each value has an eigenvalue of the matrix within its residual.
    ``weights`` (k,), sum 1: quadrature weights of the spectral density, as seen by the run's random vector.
    """

    values: np.ndarray
    residuals: np.ndarray
    weights: np.ndarray
    dim: int

    @property
    def converged(self) -> np.ndarray:
        """(k,) bool: residual at most ``CONVERGED`` times the largest absolute value."""
        return self.residuals <= CONVERGED * np.abs(self.values).max()


def lanczos(matvec: Product, dim: int, steps: int, rng: np.random.Generator) -> Ritz:
    """min(steps, dim) Lanczos steps from a random vector, each new vector orthogonalised against all before.

    One product a step; keeps steps x dim numbers. When the Krylov space is exhausted (a repeated eigenvalue, a low
    rank) it goes on from a fresh random direction, so that ``steps = dim`` gives every eigenvalue with its
    multiplicity. Source: Lanczos 1950; residual |beta_k s_ki| and weights as in Golub and Welsch 1969.
    Raises InputError for no steps or no dimension, RunFailed for a product that is not finite.
    """
    if steps < 1 or dim < 1:
        raise InputError(f"Lanczos needs at least one step and one parameter; got {steps} steps, {dim} parameters.")
    steps = min(steps, dim)
    basis = np.zeros((steps, dim))
    diagonal, off = np.zeros(steps), np.zeros(steps)  # off[j] couples steps j and j+1; the last is the residual's
    basis[0] = _new_direction(basis[:0], dim, rng)
    scale = 0.0
    for j in range(steps):
        product = np.asarray(matvec(basis[j]), dtype=np.float64)
        if not np.isfinite(product).all():
            raise RunFailed("A Hessian-vector product is not finite; the spectrum cannot be estimated.")
        diagonal[j] = basis[j] @ product
        rest = _orthogonal(product, basis[: j + 1])
        off[j] = np.linalg.norm(rest)
        scale = max(scale, float(np.linalg.norm(product)))
        exhausted = off[j] <= _BREAKDOWN * scale
        if exhausted:
            off[j] = 0.0
        if j + 1 < steps:
            basis[j + 1] = _new_direction(basis[: j + 1], dim, rng) if exhausted else rest / off[j]
    if steps == dim:
        off[-1] = 0.0  # the basis spans everything, whatever rounding left
    tridiagonal = np.diag(diagonal) + np.diag(off[:-1], 1) + np.diag(off[:-1], -1)
    values, vectors = np.linalg.eigh(tridiagonal)
    return Ritz(values, np.abs(off[-1] * vectors[-1]), vectors[0] ** 2, dim)


def lipschitz(product: HessianProduct, dim: int, radius: float, samples: int, rng: np.random.Generator) -> float:
    """Lipschitz constant of g(D) = H(theta) D - grad F(theta + D), estimated from D on the sphere ||D|| = ``radius``.

    The constant is the largest ||g(D1) - g(D2)|| / ||D1 - D2||, which on a ball is the largest norm of g's own
    derivative H(theta) - H(theta + D). Here: the largest over ``samples`` random D, each norm by ``NORM_STEPS``
    Lanczos steps of two products. So every D is paired with its worst neighbour; pairs of random D find a constant
    10 to 100 times smaller in the 166,000 dimensions of LoRA on MiniLM. Still a bound from below, and the radius
    decides its size: state it with every result.
    Source: FedDUAP and FedPepTAO [L]; the estimate and the radius are project decisions (docs/method.md section 5).
    Raises InputError for a radius or sample count that is not positive, RunFailed as ``lanczos``.
    """
    if not (radius > 0 and math.isfinite(radius)) or samples < 1:
        raise InputError(
            f"The Lipschitz constant needs a positive radius and at least one sample; got {radius}, {samples}."
        )
    largest = 0.0
    # Drawn first: how many numbers Lanczos draws depends on rounding.
    offsets = [radius * _unit(direction) for direction in rng.standard_normal((samples, dim))]
    for offset in offsets:

        def change(vector: np.ndarray, offset: np.ndarray = offset) -> np.ndarray:
            return product(vector) - product(vector, offset)

        largest = max(largest, float(np.abs(lanczos(change, dim, NORM_STEPS, rng).values).max()))
    return largest


def ritz_gap_count(ritz: Ritz, lipschitz: float) -> int | None:
    """The first m with lambda_{m+1} - lambda_m > 4 ``lipschitz`` (lambda 1-based), None when there is no such gap.

    From a Lanczos run of k of the d values: only gaps between neighbours that both converged, and only those that
    stay wide enough if both are off by their residuals.

    m is d times the weight below the gap, to the nearest integer, within what the listed values allow. It is exact
    for k = d, else known to about sqrt(2 m (d - m) / d), which moves m/d by under 1 % for d above 5,000. A gap inside
    what did not converge (Lanczos finds the ends of the spectrum first) is not seen: None means that none was found,
    and more steps may find one.
    Source: FedDUAP and FedPepTAO [L]; "no gap" instead of a clipped count, and the reading of Ritz values, are project
    decisions. Raises InputError for values out of order or not finite, or a negative constant.
    """
    _check_ascending(ritz.values, lipschitz)
    known = ritz.converged[:-1] & ritz.converged[1:]
    least = np.diff(ritz.values) - ritz.residuals[:-1] - ritz.residuals[1:]
    wide = np.flatnonzero(known & (least > 4 * lipschitz))
    if not len(wide):
        return None
    below = int(wide[0]) + 1
    above = len(ritz.values) - below
    return min(max(round(ritz.dim * float(ritz.weights[:below].sum())), below), ritz.dim - above)


def plateau_count(runs: Sequence[Ritz], change: float = PLATEAU_CHANGE, width: float = PLATEAU_WIDTH) -> int | None:
    """How many of d eigenvalues lie below the first plateau of the spectral density's tail mass; None without one.

    A reading of the rule in the group's own code [L]; every number in it is a project decision [D]. The density is
    the mean of the runs' quadrature: Lanczos from several random vectors, mass w_i at value_i. The tail mass T(t) is
    the share of eigenvalues above a threshold t, which moves up from 0. The plateau begins at the first t with T(t) -
    T(t + width * largest) <= change and t + width * largest <= largest, ``largest`` the largest value. Then m = (1 -
    T(t)) d, rounded. T only falls at a value, so 0 and the positive values are all the t to try.
    Raises InputError for no runs, or runs of different matrices.
    """
    if not runs or len({run.dim for run in runs}) > 1:
        raise InputError("The spectral density needs at least one Lanczos run, all of them of one matrix.")
    values = np.concatenate([run.values for run in runs])
    weights = np.concatenate([run.weights for run in runs]) / len(runs)
    largest = values.max()

    def tail(threshold: float) -> float:
        return float(weights[values > threshold].sum())

    for threshold in (0.0, *np.sort(values[values > 0])):
        end = threshold + width * largest
        if threshold < end <= largest and tail(threshold) - tail(end) <= change:
            return round((1 - tail(threshold)) * runs[0].dim)
    return None


def kept_fraction(count: int | None, dim: int) -> float | None:
    """r = 1 - m/d, the share of parameters that must stay; None for None. Source: docs/method.md section 5 [L]."""
    return None if count is None else 1 - count / dim


def _check_ascending(values: np.ndarray, lipschitz: float) -> None:
    if values.ndim != 1 or not np.isfinite(values).all() or bool((np.diff(values) < 0).any()):
        raise InputError("Eigenvalues must be a list of finite numbers in ascending order.")
    if not lipschitz >= 0:
        raise InputError(f"The Lipschitz constant is {lipschitz}; it must be 0 or above.")


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def _orthogonal(vector: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """What is left of a vector outside the span of orthonormal rows; twice, because once leaves rounding errors."""
    for _ in range(2):
        vector = vector - basis.T @ (basis @ vector)
    return vector


def _new_direction(basis: np.ndarray, dim: int, rng: np.random.Generator) -> np.ndarray:
    return _unit(_orthogonal(rng.standard_normal(dim), basis))
