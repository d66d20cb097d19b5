"""The part of a device's data that is mislabelled, told from what a model says of it."""

import numpy as np
import pytest

from fibecfed.config import CurriculumConfig
from fibecfed.curriculum.clean_part import clean_part, confidence_sums
from fibecfed.curriculum.selection import select

GROUPS = 4


def said(truth: np.ndarray, chance: float = 0.7) -> np.ndarray:
    """(n, G): a model that gives the true group this chance, and the others the rest in equal parts."""
    chances = np.full((len(truth), GROUPS), (1 - chance) / (GROUPS - 1))
    chances[np.arange(len(truth)), truth] = chance
    return chances


def noisy(seed: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    """True groups of 200 examples, and the groups as the data says them."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(GROUPS, size=200)
    wrong = rng.random(200) < share
    return truth, np.where(wrong, (truth + rng.integers(1, GROUPS, size=200)) % GROUPS, truth)


def test_sums_by_hand() -> None:
    chances = np.array([[0.5, 0.25, 0.25], [0.25, 0.75, 0.0], [0.1, 0.2, 0.7]])
    sums = confidence_sums(chances, np.array([0, 1, 1]))
    assert sums == pytest.approx(np.array([[0.5, 0.95, 0.0], [1, 2, 0]]))


def test_part_by_hand() -> None:
    # Thresholds 0.5, 0.4: sure of the first (right), the second (0, called 1) and the third (right), not of the last.
    chances = np.array([[0.6, 0.4], [0.7, 0.3], [0.45, 0.55], [0.45, 0.55]])
    sums = np.array([[1.0, 1.2], [2, 3]])
    assert clean_part(chances[:3], np.array([0, 1, 1]), sums) == pytest.approx(2 / 3)
    above = np.array([[1.0, 1.8], [2, 3]])  # now 0.6 for the second group: sure of the first two alone
    assert clean_part(chances, np.array([0, 1, 1, 0]), above) == pytest.approx(1 / 2)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("seed", range(4))
def test_noise_is_found_and_nothing_where_there_is_none(seed: int, share: float) -> None:
    truth, groups = noisy(seed, share)
    chances = said(truth)
    found = clean_part(chances, groups, confidence_sums(chances, groups))
    assert found == pytest.approx((truth == groups).mean())


def test_a_habit_is_no_noise() -> None:
    truth, groups = noisy(0, 0.0)
    swapped = np.where(groups == 0, 1, np.where(groups == 1, 0, groups))
    pooled = confidence_sums(said(truth), truth)  # of devices without the habit
    assert clean_part(said(truth), swapped, pooled) == 1
    one_way = np.where(groups == 0, 1, groups)  # group 1 is then no other word for 0: it still means 1, too
    few = np.flatnonzero(groups == 0)[:-20]
    assert clean_part(np.delete(said(truth), few, 0), np.delete(one_way, few), pooled) < 1


def test_a_group_that_is_mostly_wrong_takes_no_doubtful_example() -> None:
    # Nobody's examples of group 3 are such: its threshold is near 0, and yet no doubtful example counts as one.
    truth, groups = noisy(1, 0.0)
    chances = said(truth, 0.4)
    sums = np.array([[40.0, 40, 40, 0.1], [100, 100, 100, 10]])
    assert clean_part(chances, groups, sums) == 1


def test_a_model_that_is_sure_of_nothing_drops_nothing() -> None:
    chances = said(np.array([0, 1, 2]), 0.3)
    assert clean_part(chances, np.array([1, 2, 3]), np.stack([np.full(GROUPS, 9.0), np.full(GROUPS, 10.0)])) == 1
    assert clean_part(chances, np.array([1, 2, 3]), np.zeros((2, GROUPS))) == 1


def test_the_hardest_go_for_good_whatever_their_group() -> None:
    difficulty = np.arange(10.0)[::-1].copy()  # the first are the hardest, all of them of group 0
    groups = np.array([0] * 5 + [1] * 5)
    settings = CurriculumConfig(cap="auto", start=1.0)
    kept = [
        select(settings, difficulty, groups, step=9, steps=10, batch_size=4, seed=0, device=0, clean=clean).positions
        for clean in (1.0, 0.7, 0.0)
    ]
    assert [sorted(found.tolist()) for found in kept] == [list(range(10)), list(range(3, 10)), [9]]


def test_pacing_counts_all_examples() -> None:
    settings = CurriculumConfig(cap="auto", start=0.5, pacing="linear", stratified=False)
    first = select(
        settings, np.arange(10.0), np.zeros(10, int), step=0, steps=10, batch_size=4, seed=0, device=0, clean=0.7
    )
    assert sorted(first.positions.tolist()) == [0, 1, 2, 3, 4]
