"""Which layers are shared and how many: ranking and counts, by hand."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fibecfed.errors import InputError, RunFailed
from fibecfed.sharing.choice import (
    fixed_count,
    functional_count,
    lossless_count,
    rank_layers,
)

FEW = settings(max_examples=60, deadline=None, derandomize=True)


@FEW
@given(scores=st.lists(st.integers(-3, 3), min_size=1, max_size=12))
def test_ranking_is_a_stable_sort(scores: list[int]) -> None:
    assert list(rank_layers(scores)) == sorted(range(len(scores)), key=lambda layer: (-scores[layer], layer))


@pytest.mark.parametrize(
    ("count", "layers", "wanted"),
    [(1, 6, 1), (6, 6, 6), (1.0, 6, 6), (0.5, 6, 3), (0.5, 5, 3), (0.25, 6, 2), (0.24, 6, 1), (0.01, 6, 1)],
)  # fmt: skip
def test_fixed_counts_and_fractions(count: int | float, layers: int, wanted: int) -> None:
    assert fixed_count(count, layers) == wanted


@pytest.mark.parametrize("count", [0, 7, -1, 0.0, 1.5, -0.5, float("nan")])
def test_impossible_counts(count: int | float) -> None:
    with pytest.raises(InputError, match="1"):
        fixed_count(count, 6)


def test_functional_count_stops_at_the_first_that_suffices() -> None:
    asked: list[frozenset[int]] = []
    losses = {1: 2.0, 2: 1.02, 3: 1.005, 4: 1.0}

    def loss_with(kept: frozenset[int]) -> float:
        asked.append(kept)
        return losses[len(kept)]

    found = functional_count((3, 0, 2, 1), loss_with)
    assert found.count == 3 and found.full_loss == 1.0 and found.losses == (2.0, 1.02, 1.005)
    assert asked == [{0, 1, 2, 3}, {3}, {3, 0}, {3, 0, 2}]
    assert functional_count((3, 0, 2, 1), loss_with, tolerance=0.03).count == 2
    assert functional_count((3, 0, 2, 1), loss_with, tolerance=1.0).count == 1
    exhausted = functional_count((3, 0, 2, 1), loss_with, tolerance=0.001)
    assert exhausted.count == 4 and exhausted.losses == (2.0, 1.02, 1.005, 1.0)


def test_functional_count_at_the_limit_and_with_a_loss_that_is_not_a_number() -> None:
    losses = {1: float("nan"), 2: 1.25, 3: 1.0}
    assert functional_count((0, 1, 2), lambda kept: losses[len(kept)], tolerance=0.25).count == 2  # equal is enough
    with pytest.raises(RunFailed, match="not finite"):
        functional_count((0,), lambda kept: float("nan"))
    with pytest.raises(InputError, match="no layers"):
        functional_count((), lambda kept: 1.0)


def test_lossless_count_by_hand() -> None:
    # (100 * .2 + 300 * .6) / 400 = .5 of 6 layers.
    found = lossless_count({4: (0.6, 300), 1: (0.2, 100)}, 6)
    assert (found.count, found.found, found.without) == (3, 2, 0)
    assert found.reason == "3 of 6 layers: the mean lossless fraction of 2 devices is 0.5."


def test_devices_without_a_gap_are_left_out_and_counted() -> None:
    found = lossless_count({0: (0.6, 300), 1: (None, 10_000), 2: (0.2, 100)}, 6)
    assert (found.count, found.found, found.without) == (3, 2, 1)
    assert "of 2 devices" in found.reason and "1 more found no gap" in found.reason
    nobody = lossless_count({0: (None, 5), 1: (None, 7)}, 6)
    assert (nobody.count, nobody.found, nobody.without) == (None, 0, 2)
    assert "no count" in nobody.reason and "2 devices" in nobody.reason


@pytest.mark.parametrize(("fraction", "count"), [(0.0, 1), (1e-5, 1), (0.25, 2), (0.24, 1), (0.75, 5), (1.0, 6)])
def test_lossless_counts_round_halves_up_and_keep_one(fraction: float, count: int) -> None:
    assert lossless_count({0: (fraction, 3)}, 6).count == count


def test_lossless_fractions_that_cannot_be() -> None:
    for fraction in (-0.1, 1.1, float("nan")):
        with pytest.raises(RunFailed, match="Device 3"):
            lossless_count({0: (0.5, 1), 3: (fraction, 1)}, 6)
    for fractions in ({}, {0: (0.5, 0)}):
        with pytest.raises(RunFailed, match="example"):
            lossless_count(fractions, 6)
