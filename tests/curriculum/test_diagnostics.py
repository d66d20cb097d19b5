"""Diagnostics by hand and against scipy."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import f_oneway, rankdata, spearmanr

from fibecfed.curriculum import (
    GROUP_SHARE_WARNING,
    group_share,
    group_share_by_chance,
    log_histogram,
    rank_stability,
)
from fibecfed.errors import InputError

scored = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), min_size=2, max_size=40).map(
    lambda pairs: (np.array([float(s) for s, _ in pairs]), np.array([c for _, c in pairs]))
)


def test_group_share_by_hand() -> None:
    # Ranks 1 2 3 4, centred -1.5 -0.5 0.5 1.5, total 5. Labels {1, 2} {3, 4}: sums -2 and 2, between 2 + 2.
    assert group_share(np.array([0.1, 5.0, 7.0, 900.0]), np.array([0, 0, 3, 3])) == pytest.approx(0.8, rel=1e-15)
    # {1, 4} {2, 3}: the label says nothing.
    assert group_share(np.array([0.1, 5.0, 7.0, 900.0]), np.array([1, 0, 0, 1])) == 0
    # Ties share their mean rank: 1.5 1.5 3, centred -0.5 -0.5 1, total 1.5; one label each explains all.
    assert group_share(np.array([2.0, 2.0, 4.0]), np.array([0, 0, 1])) == pytest.approx(1)
    assert group_share(np.array([2.0, 2.0, 4.0]), np.array([0, 1, 0])) == pytest.approx((0.125 + 0.25) / 1.5)
    assert GROUP_SHARE_WARNING == 0.3


@given(scored)
def test_group_share_agrees_with_the_f_statistic(data: tuple[np.ndarray, np.ndarray]) -> None:
    """F = (eta^2 / (C-1)) / ((1 - eta^2) / (n-C))."""
    scores, labels = data
    kinds = np.unique(labels)
    share = group_share(scores, labels)
    assume(share is not None and share < 1 - 1e-9 and 1 < len(kinds) < len(scores))
    assert share is not None
    ranks = rankdata(scores)
    statistic = f_oneway(*[ranks[labels == kind] for kind in kinds]).statistic
    between, within = len(kinds) - 1, len(scores) - len(kinds)
    assert share / between / ((1 - share) / within) == pytest.approx(statistic, rel=1e-6, abs=1e-9)


def test_group_share_by_chance_is_the_mean_over_random_scores() -> None:
    labels = np.repeat([0, 1, 4], [2, 5, 8])
    rng = np.random.default_rng(0)
    shares = [group_share(rng.random(15), labels) for _ in range(3000)]
    assert group_share_by_chance(labels) == pytest.approx(2 / 14)
    assert np.mean(np.array(shares, dtype=float)) == pytest.approx(2 / 14, abs=0.01)
    assert group_share_by_chance(np.array([3])) == 0


def test_what_is_undefined_is_none() -> None:
    one, same = np.array([1.0]), np.array([2.0, 2.0, 2.0])
    assert group_share(one, np.array([0])) is None
    assert group_share(same, np.array([0, 1, 0])) is None
    assert rank_stability(one, one) is None
    assert rank_stability(same, np.array([1.0, 2.0, 3.0])) is None


def test_stability_by_hand() -> None:
    before = np.array([1.0, 2.0, 3.0, 4.0])
    assert rank_stability(before, before**3) == pytest.approx(1)
    assert rank_stability(before, -before) == pytest.approx(-1)
    # 1 - 6 * (1 + 1 + 0 + 0) / (4 * 15)
    assert rank_stability(before, np.array([2.0, 1.0, 3.0, 4.0])) == pytest.approx(0.8)
    with pytest.raises(ValueError, match="compared"):
        rank_stability(before, before[:3])


@given(scored, st.integers(0, 1000))
def test_stability_agrees_with_scipy(data: tuple[np.ndarray, np.ndarray], seed: int) -> None:
    before, after = data[0], np.random.default_rng(seed).permutation(data[0])
    found = rank_stability(before, after)
    assume(found is not None)
    assert found == pytest.approx(spearmanr(before, after).statistic, rel=1e-9, abs=1e-12)


def test_histogram_by_hand() -> None:
    found = log_histogram(np.array([0.0, 1.0, 2.0, 5.0, 90.0, 10000.0]), bins=2)
    assert found.edges == pytest.approx([1, 100, 10000])
    assert (found.counts, found.zeros) == ([4, 1], 1)
    alone = log_histogram(np.full(3, 7.0), bins=4)
    assert sum(alone.counts) == 3
    assert alone.edges[0] < 7 < alone.edges[-1]
    assert log_histogram(np.zeros(2)) == log_histogram(np.zeros(2), bins=3)
    assert log_histogram(np.zeros(2)).zeros == 2
    for bad in (-1.0, np.nan, np.inf):
        with pytest.raises(InputError, match="logarithmic"):
            log_histogram(np.array([1.0, bad]))
