"""How much data is in use in which round, by hand."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fibecfed.curriculum import capped_size, prefix_fraction, prefix_size
from fibecfed.errors import InputError

KINDS = st.sampled_from(["linear", "sqrt", "exp"])


@pytest.mark.parametrize(
    ("kind", "fractions"),
    [  # start 0.6, all data from round 8 of 10 on
        ("linear", [0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0, 1.0]),
        ("sqrt", [math.sqrt(0.36 + 0.08 * t) for t in range(8)] + [1.0, 1.0]),
        ("exp", [0.6 ** (1 - t / 8) for t in range(8)] + [1.0, 1.0]),
    ],
)
def test_ten_rounds_by_hand(kind: str, fractions: list[float]) -> None:
    assert [prefix_fraction(kind, t, 10) for t in range(10)] == pytest.approx(fractions, rel=1e-12)  # type: ignore[arg-type]


def test_halfway_from_a_quarter() -> None:
    """Halfway of the pacing: 5/8, sqrt(17/32), 1/2."""
    halfway = {kind: prefix_fraction(kind, 2, 4, start=0.25, full_at=1.0) for kind in ("linear", "sqrt", "exp")}
    assert halfway == pytest.approx({"linear": 0.625, "sqrt": math.sqrt(17 / 32), "exp": 0.5}, rel=1e-15)


@given(KINDS, st.integers(1, 500), st.floats(1e-3, 1), st.floats(1e-3, 1))
def test_it_starts_at_the_start_grows_and_ends_with_everything(
    kind: str, steps: int, start: float, full_at: float
) -> None:
    found = [prefix_fraction(kind, t, steps, start, full_at) for t in range(steps + 1)]  # type: ignore[arg-type]
    assert found[0] == pytest.approx(start, rel=1e-12)
    assert all(a <= b for a, b in pairwise(found))
    assert all(0 < c <= 1 for c in found)
    assert all(c == 1 for t, c in enumerate(found) if t >= full_at * steps)


@given(st.integers(1, 1000), st.integers(1, 1000))
def test_a_whole_number_of_examples_is_not_rounded_up(numerator: int, examples: int) -> None:
    fraction = min(1.0, numerator / examples)
    assert prefix_size(fraction, examples) == capped_size(fraction, examples) == min(numerator, examples)


def test_sizes_by_hand() -> None:
    assert [prefix_size(c, 10) for c in (0.01, 0.1, 0.11, 0.6, 0.95, 1.0)] == [1, 1, 2, 6, 10, 10]
    assert prefix_size(0.55, 100) == 55
    assert prefix_size(0.6, 1) == 1
    assert prefix_size(0.6, 0) == 0
    assert [capped_size(c, 10) for c in (0.01, 0.19, 0.2, 0.99, 1.0)] == [1, 1, 2, 9, 10]
    assert capped_size(0.29, 100) == 29


def test_impossible_settings_are_refused() -> None:
    for settings in ({"start": 0.0}, {"start": 1.1}, {"full_at": 0.0}, {"full_at": 1.5}, {"start": math.nan}):
        with pytest.raises(InputError, match=next(iter(settings))):
            prefix_fraction("linear", 0, 10, **settings)
    with pytest.raises(InputError, match="'cubic' is no pacing"):
        prefix_fraction("cubic", 0, 10)  # type: ignore[arg-type]
    for step, steps in ((-1, 10), (0, 0)):
        with pytest.raises(ValueError, match="round"):
            prefix_fraction("linear", step, steps)
    for cap in (0.0, 1.1):
        with pytest.raises(InputError, match="cap"):
            capped_size(cap, 10)
