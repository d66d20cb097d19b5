"""Lanczos against dense solvers; the gap, plateau and Lipschitz rules against numbers worked out by hand."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fibecfed.errors import InputError, RunFailed
from fibecfed.sharing.spectrum import (
    Product,
    Ritz,
    kept_fraction,
    lanczos,
    lipschitz,
    plateau_count,
    ritz_gap_count,
)
from sharing.toys import dense_gap_count

FEW = settings(max_examples=60, deadline=None, derandomize=True)


def symmetric(eigenvalues: np.ndarray, seed: int) -> np.ndarray:
    """A matrix with these eigenvalues and random eigenvectors."""
    side = len(eigenvalues)
    rotation = np.linalg.qr(np.random.default_rng(seed).standard_normal((side, side)))[0]
    matrix = rotation * eigenvalues @ rotation.T
    return (matrix + matrix.T) / 2


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def times(matrix: np.ndarray) -> Product:
    return lambda vector: matrix @ vector


def ritz(values: list[float], weights: list[float], dim: int, unsure: tuple[int, ...] = ()) -> Ritz:
    """A run written by hand; ``unsure`` are the positions that did not converge."""
    residuals = np.zeros(len(values))
    residuals[list(unsure)] = 100.0
    return Ritz(np.array(values), residuals, np.array(weights), dim)


@FEW
@given(
    eigenvalues=st.lists(st.sampled_from([-3.0, -1.0, 0.0, 0.0, 1e-4, 0.5, 1.0, 2.0, 7.5]), min_size=1, max_size=25),
    seed=st.integers(0, 2**32),
)
def test_as_many_steps_as_rows_give_every_eigenvalue_with_its_multiplicity(eigenvalues: list[float], seed: int) -> None:
    wanted = np.sort(eigenvalues)
    run = lanczos(times(symmetric(wanted, seed)), len(wanted), len(wanted) + 3, np.random.default_rng(seed))
    assert np.allclose(run.values, wanted, atol=1e-9)
    assert run.converged.all()


@FEW
@given(side=st.integers(2, 40), steps=st.integers(1, 40), seed=st.integers(0, 2**32))
def test_residuals_and_weights_are_what_they_say(side: int, steps: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = symmetric(rng.standard_normal(side), seed)
    asked: list[np.ndarray] = []

    def product(vector: np.ndarray) -> np.ndarray:
        asked.append(vector.copy())
        return matrix @ vector

    run = lanczos(product, side, steps, rng)
    assert len(asked) == len(run.values) == min(side, steps)
    assert np.allclose(np.array(asked) @ np.array(asked).T, np.eye(len(asked)), atol=1e-12)
    distance = np.abs(run.values[:, None] - np.linalg.eigvalsh(matrix)).min(axis=1)
    assert (distance <= run.residuals + 1e-10).all()
    # Gauss quadrature with k nodes is exact for polynomials up to degree 2k - 1.
    start = asked[0]
    for degree in range(min(2 * len(asked), 5)):
        assert np.isclose(
            run.weights @ run.values**degree, start @ np.linalg.matrix_power(matrix, degree) @ start, atol=1e-9
        )


@FEW
@given(seed=st.integers(0, 2**32), side=st.integers(80, 150))
def test_the_top_five_converge_long_before_the_rest(seed: int, side: int) -> None:
    rng = np.random.default_rng(seed)
    eigenvalues = np.sort(np.concatenate([rng.uniform(-1, 1, side - 5), [3, 4.5, 6, 8, 12]]))
    run = lanczos(times(symmetric(eigenvalues, seed)), side, 40, rng)
    assert run.converged[-5:].all() and not run.converged.all()
    assert np.allclose(run.values[-5:], eigenvalues[-5:], rtol=1e-3)


def test_lanczos_refuses_what_it_cannot_use() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match="0 steps"):
        lanczos(times(np.eye(2)), 2, 0, rng)
    with pytest.raises(RunFailed, match="not finite"):
        lanczos(times(np.full((2, 2), np.nan)), 2, 2, rng)


def all_of(eigenvalues: Sequence[float]) -> Ritz:
    """A run that found every eigenvalue exactly."""
    count = len(eigenvalues)
    return Ritz(np.array(eigenvalues, dtype=float), np.zeros(count), np.full(count, 1 / count), count)


@pytest.mark.parametrize(
    ("eigenvalues", "constant", "m"),
    [
        ([0, 1, 2, 7, 8], 1.0, 3),  # 5 > 4: three below
        ([0, 1, 2, 6, 8], 1.0, None),  # 4 is not above 4
        ([0, 5, 11, 30], 1.0, 1),  # the first gap, not the widest
        ([0, 5, 11, 30], 2.0, 3),
        ([-9, 0, 0, 1], 1.0, 1),
        ([0, 5, 11, 30], 5.0, None),
        ([3], 0.0, None),
        ([2, 2, 2.5], 0.0, 2),
    ],
)
def test_the_gap_rule_by_hand(eigenvalues: list[float], constant: float, m: int | None) -> None:
    assert ritz_gap_count(all_of(eigenvalues), constant) == m


def test_the_gap_rule_refuses_disorder() -> None:
    for eigenvalues, constant in (([1.0, 0.0], 1.0), ([0.0, np.nan], 1.0), ([0.0, 1.0], -1.0), ([0.0], np.nan)):
        with pytest.raises(InputError):
            ritz_gap_count(all_of(eigenvalues), constant)


SPREAD = ritz([-20.0, 0.0, 1.0, 10.0, 30.0], [0.002, 0.9, 0.09, 0.005, 0.003], 1000)


def test_a_gap_between_ritz_values_is_placed_by_the_weight_below_it() -> None:
    assert ritz_gap_count(SPREAD, 4.5) == 2  # 20 > 18
    assert ritz_gap_count(ritz([0.0, 1.0, 10.0, 30.0], [0.902, 0.09, 0.005, 0.003], 1000), 2.0) == 992  # 9 > 8
    assert ritz_gap_count(ritz([0.0, 1.0, 10.0, 30.0], [0.902, 0.09, 0.005, 0.003], 1000), 3.0) == 997  # 20 > 12
    assert ritz_gap_count(SPREAD, 6.0) is None


def test_every_listed_value_is_at_least_one_eigenvalue() -> None:
    assert ritz_gap_count(ritz([-20.0, 0.0, 1.0], [1e-9, 0.9, 0.1], 1000), 4.5) == 1
    assert ritz_gap_count(ritz([0.0, 1.0, 30.0], [0.9, 0.1, 1e-9], 1000), 4.5) == 999
    assert ritz_gap_count(ritz([0.0, 20.0, 40.0], [0.1, 0.1, 0.8], 3), 4.5) == 1  # all listed: the weights are silent


def test_a_gap_beside_a_value_that_did_not_converge_does_not_count() -> None:
    def unsure(*positions: int) -> Ritz:
        return ritz(list(SPREAD.values), list(SPREAD.weights), 1000, unsure=positions)

    assert ritz_gap_count(unsure(2), 4.5) == 2
    for neighbour in (0, 1):
        assert ritz_gap_count(unsure(neighbour), 4.5) == 997  # the next one, from 10 to 30
    assert ritz_gap_count(unsure(1, 3), 4.5) is None


def test_a_gap_must_stay_wide_when_both_values_are_off_by_their_residuals() -> None:
    def run(residual: float) -> Ritz:
        return Ritz(np.array([0.0, 10.0, 1000.0]), np.array([residual, residual, 1.0]), np.array([0.4, 0.3, 0.3]), 3)

    assert run(0.9).converged.all()
    assert ritz_gap_count(run(0.4), 2.25) == 1  # 10 - .8 > 9
    assert ritz_gap_count(run(0.6), 2.25) == 2  # 10 - 1.2 < 9, and 990 is wide enough
    # A residual above a thousandth of the largest value has not converged, however wide the gap beside it.
    coarse = Ritz(np.array([0.0, 10.0, 30.0]), np.array([0.0, 0.5, 0.0]), np.array([0.4, 0.3, 0.3]), 3)
    assert ritz_gap_count(coarse, 1.0) is None


@FEW
@given(
    seed=st.integers(0, 2**32),
    low=st.lists(st.floats(-60, -10), max_size=3),
    high=st.lists(st.floats(10, 60), max_size=3),
    constant=st.floats(1.0, 8.0),
)
def test_ritz_gaps_are_the_dense_ones_when_the_outliers_converge(
    seed: int, low: list[float], high: list[float], constant: float
) -> None:
    rng = np.random.default_rng(seed)
    eigenvalues = np.sort(np.concatenate([low, rng.uniform(-0.5, 0.5, 60), high]))
    matrix = symmetric(eigenvalues, seed)
    if (np.abs(np.diff(eigenvalues) - 4 * constant) < 0.2).any():
        return  # too close to call for values known to 1e-3
    full = lanczos(times(matrix), len(eigenvalues), len(eigenvalues), rng)
    assert ritz_gap_count(full, constant) == dense_gap_count(eigenvalues, constant)
    part = lanczos(times(matrix), len(eigenvalues), 30, rng)
    if part.converged[: len(low) + 1].all() and part.converged[len(part.values) - len(high) - 1 :].all():
        found, wanted = ritz_gap_count(part, constant), dense_gap_count(eigenvalues, constant)
        assert (found is None) == (wanted is None)
        if found is not None and wanted is not None:  # within five standard deviations
            assert abs(found - wanted) <= 5 * np.sqrt(2 * wanted * (1 - wanted / part.dim)) + 1


def test_a_quadratic_loss_has_lipschitz_constant_zero() -> None:
    matrix = symmetric(np.linspace(-2, 5, 12), 1)
    assert lipschitz(lambda v, offset=None: matrix @ v, 12, 0.3, 6, np.random.default_rng(1)) == 0


def test_the_lipschitz_constant_of_a_cubic_by_hand() -> None:
    # F(x) = x^3 / 6 at x = 3: H(3 + D) = 3 + D, which is R away from H(3) on both sides.
    found = lipschitz(lambda v, offset=None: (3 + (0 if offset is None else offset)) * v, 1, 0.4, 3, rng())
    assert found == pytest.approx(0.4, rel=1e-12)


def cubic(slopes: np.ndarray, vector: np.ndarray, offset: np.ndarray | None) -> np.ndarray:
    """F(x) = sum_i (x . c_i)^3 / 6 for the rows c_i: H(D) = sum_i (D . c_i) c_i c_i^T."""
    return slopes.T @ ((slopes @ (np.zeros_like(vector) if offset is None else offset)) * (slopes @ vector))


def test_the_lipschitz_constant_is_the_steepest_pair_of_points() -> None:
    # c_1 = (2, 0), c_2 = (0, 1): the derivative of g at D is -diag(8 D_1, D_2), of norm max(8 |D_1|, |D_2|) <= 8 R.
    slopes = np.array([[2.0, 0.0], [0.0, 1.0]])
    for radius in (0.5, 2.0):
        found = lipschitz(lambda v, offset=None: cubic(slopes, v, offset), 2, radius, 30, rng())
        assert 7.9 * radius < found <= 8 * radius


@FEW
@given(seed=st.integers(0, 2**32), side=st.integers(2, 30), radius=st.floats(0.01, 10))
def test_no_two_points_near_the_sample_are_steeper(seed: int, side: int, radius: float) -> None:
    random = np.random.default_rng(seed)
    slopes, centre = random.standard_normal((4, side)), random.standard_normal(side)
    offset = radius * centre / np.linalg.norm(centre)
    found = lipschitz(lambda v, o=None: cubic(slopes, v, None if o is None else offset), side, radius, 1, random)

    def deviation(point: np.ndarray) -> np.ndarray:  # H(0) D - grad F(D), H(0) = 0
        return -slopes.T @ (slopes @ point) ** 2 / 2

    step = 1e-5 * radius * random.standard_normal((20, side))
    quotients = [np.linalg.norm(deviation(offset + s) - deviation(offset - s)) / np.linalg.norm(2 * s) for s in step]
    assert max(quotients) <= found * (1 + 1e-6)
    assert found == pytest.approx(np.linalg.norm(slopes.T * (slopes @ offset) @ slopes, 2), rel=1e-3)


def test_lipschitz_refuses_what_it_cannot_use() -> None:
    for radius, samples in ((0.0, 3), (np.inf, 3), (np.nan, 3), (1.0, 0)):
        with pytest.raises(InputError, match="radius"):
            lipschitz(lambda v, offset=None: v, 2, radius, samples, rng())
    with pytest.raises(RunFailed, match="not finite"):
        lipschitz(lambda v, offset=None: v if offset is None else v * np.nan, 2, 1.0, 2, rng())


def test_the_plateau_of_a_hand_made_spectrum() -> None:
    # Tail mass: .5 above 0, .3 above .1, .1 above .2; nothing more is lost up to .2 + .05 * 10.
    run = ritz([-1.0, 0.1, 0.2, 5.0, 10.0], [0.5, 0.2, 0.2, 0.06, 0.04], 200)
    assert plateau_count([run]) == 180
    # A wider look from .2 on sees the mass at 5 go, so the plateau is the one above 5, where .04 is left.
    assert plateau_count([run], width=0.49) == 192
    # And it may go, if losing .06 is called flat.
    assert plateau_count([run], width=0.49, change=0.07) == 180


def test_runs_are_averaged() -> None:
    first = ritz([0.0, 10.0], [0.9, 0.1], 100)
    second = ritz([0.0, 10.0], [0.7, 0.3], 100)
    assert plateau_count([first, second]) == 80


def test_no_plateau() -> None:
    assert plateau_count([ritz(list(np.linspace(0.01, 1, 100)), [0.01] * 100, 100)]) is None
    assert plateau_count([ritz([-2.0, -1.0], [0.5, 0.5], 100)]) is None
    with pytest.raises(InputError, match="at least one"):
        plateau_count([])


@FEW
@given(
    values=st.lists(st.floats(-1, 1).map(lambda v: round(v, 3)), min_size=1, max_size=30),
    change=st.floats(0, 0.3).map(lambda v: v + 1e-6),
    width=st.floats(0.01, 0.5),
)
def test_trying_only_the_values_finds_the_same_plateau_as_a_fine_grid(
    values: list[float], change: float, width: float
) -> None:
    ordered = sorted(values)
    found = plateau_count([ritz(ordered, [1 / len(ordered)] * len(ordered), len(ordered))], change, width)
    array, largest = np.array(ordered), ordered[-1]
    wanted = None
    for t in np.union1d(np.linspace(0, 1, 2001), array[array >= 0]):
        end = t + width * largest
        if t < end <= largest and np.mean(array > t) - np.mean(array > end) <= change:
            wanted = int((array <= t).sum())
            break
    assert found == wanted


def test_the_plateau_of_a_matrix_with_outliers_is_its_bulk() -> None:
    rng = np.random.default_rng(3)
    eigenvalues = np.sort(np.concatenate([np.zeros(60), rng.uniform(0, 1, 100), rng.uniform(15, 20, 40)]))
    matrix = symmetric(eigenvalues, 3)
    runs = [lanczos(times(matrix), 200, 30, rng) for _ in range(8)]
    count = plateau_count(runs)
    assert count is not None and abs(count - 160) < 12  # the tail mass of 8 random vectors is known to a few hundredths


def test_what_must_stay() -> None:
    assert kept_fraction(30, 40) == 0.25
    assert kept_fraction(None, 40) is None
