"""Which layers are shared and how many: choosers, counts and overlap, by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fibecfed.errors import InputError, RunFailed
from fibecfed.sharing.choice import (
    Chooser,
    choose_layers,
    fixed_count,
    functional_count,
    informative,
    jaccard,
    lossless_count,
    rank_layers,
)

FEW = settings(max_examples=60, deadline=None, derandomize=True)
SCORES = [0.3, 0.9, 0.3, 0.5]


@pytest.mark.parametrize("kind", ["sensitivity", "gain", "consensus", "reset_loss"])
def test_scored_choosers_take_the_largest_ties_by_index(kind: Chooser) -> None:
    assert choose_layers(kind, SCORES, 1, 4) == (1,)
    assert choose_layers(kind, SCORES, 2, 4) == (1, 3)
    assert choose_layers(kind, SCORES, 3, 4) == (0, 1, 3)
    assert choose_layers(kind, np.array(SCORES), 4, 4) == (0, 1, 2, 3)


def test_choosers_without_scores() -> None:
    assert choose_layers("first", None, 2, 5) == (0, 1)
    assert choose_layers("last", None, 2, 5) == (3, 4)
    assert choose_layers("all", None, 2, 5) == (0, 1, 2, 3, 4)


def test_random_layers_are_distinct_seeded_and_uniform() -> None:
    draws = [choose_layers("random", None, 2, 4, np.random.default_rng(seed)) for seed in range(600)]
    assert draws[0] == choose_layers("random", None, 2, 4, np.random.default_rng(0))
    assert all(list(draw) == sorted(set(draw)) and len(draw) == 2 for draw in draws)
    counts = np.bincount(np.concatenate(draws), minlength=4)
    assert counts.shape == (4,) and (np.abs(counts - 300) < 5 * np.sqrt(600 / 4)).all()


def test_choosers_say_what_is_wrong() -> None:
    for count in (0, 5):
        with pytest.raises(InputError, match="1 to 4"):
            choose_layers("first", None, count, 4)
    with pytest.raises(InputError, match="4 scores"):
        choose_layers("gain", None, 2, 4)
    with pytest.raises(InputError, match="4 scores"):
        choose_layers("gain", [1.0, 2.0], 2, 4)
    with pytest.raises(InputError, match="random generator"):
        choose_layers("random", None, 2, 4)
    with pytest.raises(InputError, match="'best' chooses no layers"):
        choose_layers("best", SCORES, 2, 4)  # type: ignore[arg-type]
    with pytest.raises(RunFailed, match="not finite"):
        choose_layers("sensitivity", [1.0, np.nan, 0.0, 2.0], 2, 4)


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


def test_jaccard_by_hand() -> None:
    assert jaccard([(0, 1), (1, 2)]) == pytest.approx(1 / 3)
    # {0,1},{1,2}: 1/3; {0,1},{0,1,2}: 2/3; {1,2},{0,1,2}: 2/3.
    assert jaccard([(0, 1), (1, 2), (0, 1, 2)]) == pytest.approx(5 / 9)
    assert jaccard([(0,), (1,)]) == 0 and jaccard([(), ()]) == 1 and jaccard([(2, 1), (1, 2)]) == 1
    with pytest.raises(InputError, match="two seeds"):
        jaccard([(0, 1)])


def test_a_score_is_informative_from_an_overlap_of_four_fifths() -> None:
    assert informative([(0, 1, 2, 3, 4), (0, 1, 2, 3)])  # 4/5
    assert not informative([(0, 1, 2, 3), (0, 1, 2)])  # 3/4
