"""The part of a device's data that is mislabelled, told from what a model says of it."""

import numpy as np
import pytest

from fibecfed.config import CurriculumConfig
from fibecfed.curriculum.clean_part import Suspicion, confidence_sums, suspicion
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


def test_suspicion_by_hand() -> None:
    # Thresholds 0.5, 0.4: sure of all of them; the second is called 1 and looks like 0.
    chances = np.array([[0.6, 0.4], [0.7, 0.3], [0.45, 0.55], [0.45, 0.55]])
    sums = np.array([[1.0, 1.2], [2, 3]])
    assert suspicion(chances, np.array([0, 1, 1, 1]), sums)[:2] == (1, 4)
    above = np.array([[1.0, 1.8], [2, 3]])  # now 0.6 for the second group: sure of the first two alone
    assert suspicion(chances, np.array([0, 1, 1, 1]), above)[:2] == (1, 2)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("seed", range(4))
def test_noise_is_found_and_nothing_where_there_is_none(seed: int, share: float) -> None:
    truth, groups = noisy(seed, share)
    chances = said(truth)
    sums = confidence_sums(chances, groups) * [[1 - 1e-9], [1]]  # or rounding decides where all chances are equal
    found = suspicion(chances, groups, sums)
    assert (found.wrong, found.sure) == ((truth != groups).sum(), 200)
    assert not found.habitual.any()


def test_a_habit_is_no_noise() -> None:
    truth, groups = noisy(0, 0.0)
    swapped = np.where(groups == 0, 1, np.where(groups == 1, 0, groups))
    pooled = confidence_sums(said(truth), truth) * [[1 - 1e-9], [1]]  # of devices without the habit
    found = suspicion(said(truth), swapped, pooled)
    assert found.wrong == 0 and (found.habitual == (swapped != truth)).all()
    one_way = np.where(groups == 0, 1, groups)  # group 1 is then no other word for 0: it still means 1, too
    few = np.flatnonzero(groups == 0)[:-20]
    assert suspicion(np.delete(said(truth), few, 0), np.delete(one_way, few), pooled).wrong == 20


def test_a_group_that_is_mostly_wrong_takes_no_doubtful_example() -> None:
    # Nobody's examples of group 3 are such: its threshold is near 0, and yet no doubtful example counts as one.
    truth, groups = noisy(1, 0.0)
    sums = np.array([[40.0, 40, 40, 0.1], [100, 100, 100, 10]])
    assert suspicion(said(truth, 0.4), groups, sums).wrong == 0


def test_a_model_that_is_sure_of_nothing_doubts_nothing() -> None:
    chances = said(np.array([0, 1, 2]), 0.3)
    for sums in (np.stack([np.full(GROUPS, 9.0), np.full(GROUPS, 10.0)]), np.zeros((2, GROUPS))):
        found = suspicion(chances, np.array([1, 2, 3]), sums)
        assert found[:2] == (0, 0) and not found.doubtful(np.ones(3)).any()


def test_the_hardest_are_doubtful_but_no_habit() -> None:
    difficulty = np.array([9.0, 8, 7, 6, 5, 4, 3, 2, 1, 0])
    nothing = np.zeros(10, bool)
    assert np.flatnonzero(Suspicion(3, 10, nothing).doubtful(difficulty)).tolist() == [0, 1, 2]
    assert np.flatnonzero(Suspicion(1, 5, nothing).doubtful(difficulty)).tolist() == [0, 1]
    assert np.flatnonzero(Suspicion(3, 10, difficulty > 7).doubtful(difficulty)).tolist() == [2, 3, 4]
    assert Suspicion(10, 10, nothing).doubtful(difficulty).sum() == 9  # one is left


def test_doubtful_examples_take_no_part_and_pacing_counts_all() -> None:
    doubtful = np.arange(10) >= 7
    groups = np.array([0] * 5 + [1] * 5)
    rounds = {}
    for step in (0, 9):
        settings = CurriculumConfig(cap="auto", start=0.5, pacing="linear", stratified=False)
        found = select(
            settings, np.arange(10.0), groups, step=step, steps=10, batch_size=4, seed=0, device=0, doubtful=doubtful
        )
        rounds[step] = sorted(found.positions.tolist())
    assert rounds == {0: [0, 1, 2, 3, 4], 9: [0, 1, 2, 3, 4, 5, 6]}
