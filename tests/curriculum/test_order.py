"""Which examples come first, and which are drawn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fibecfed.curriculum import (
    Order,
    batches_easy_first,
    easy_first,
    importance_sample,
    random_order,
    random_subset,
)
from fibecfed.errors import InputError, RunFailed

SCORES = np.array([5.0, 1.0, 3.0, 3.0, 9.0, 2.0])
LABELS = np.array([0, 0, 1, 0, 1, 0])

scored = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5)), min_size=1, max_size=60).map(
    lambda pairs: (np.array([float(s) for s, _ in pairs]), np.array([c for _, c in pairs]))
)


def test_plain_order_by_hand() -> None:
    assert easy_first(SCORES, LABELS, stratified=False).positions.tolist() == [1, 5, 2, 3, 0, 4]


def test_stratified_order_by_hand() -> None:
    """Label 0 has 1, 5, 3, 0 at 1/8, 3/8, 5/8, 7/8; label 1 has 2, 4 at 1/4, 3/4."""
    assert easy_first(SCORES, LABELS).positions.tolist() == [1, 2, 5, 3, 4, 0]


def test_stratified_ties_go_by_label_then_position() -> None:
    labels = np.array([2, 1, 2, 1])
    assert easy_first(np.array([7.0, 7.0, 7.0, 7.0]), labels).positions.tolist() == [1, 0, 3, 2]


@given(scored)
def test_every_stratified_prefix_keeps_the_label_mix(data: tuple[np.ndarray, np.ndarray]) -> None:
    scores, labels = data
    order = easy_first(scores, labels).positions
    assert sorted(order.tolist()) == list(range(len(scores)))
    kinds, sizes = np.unique(labels, return_counts=True)
    for count in range(1, len(order) + 1):
        held = np.array([(labels[order[:count]] == kind).sum() for kind in kinds])
        bound = 0.5 + max(0, len(kinds) - 2) / 2 * sizes / len(order)
        assert (np.abs(held - count * sizes / len(order)) <= bound + 1e-9).all()
    for kind in kinds:  # inside a label, easy first with ties by position
        own = order[labels[order] == kind]
        assert [(scores[i], i) for i in own] == sorted((scores[i], i) for i in own)


@given(scored)
def test_one_label_makes_stratified_and_plain_the_same(data: tuple[np.ndarray, np.ndarray]) -> None:
    scores, labels = data
    same = easy_first(scores, np.zeros_like(labels)).positions
    assert same.tolist() == easy_first(scores, labels, stratified=False).positions.tolist()
    assert same.tolist() == sorted(range(len(scores)), key=lambda i: (scores[i], i))


def test_prefixes_are_nested_and_capped() -> None:
    order = easy_first(SCORES, LABELS)
    assert [order.prefix(n).positions.tolist() for n in (1, 3)] == [[1], [1, 2, 5]]
    assert order.prefix(3).weights is None
    assert len(order.prefix(99).positions) == 6
    # 0.7 * 6 = 4.2: the hardest of each label, 0 and 4, never join.
    assert order.prefix(6, cap=0.7).positions.tolist() == [1, 2, 5, 3]
    assert order.prefix(2, cap=0.7).positions.tolist() == [1, 2]
    assert order.prefix(6, cap=0.01).positions.tolist() == [1]
    assert len(easy_first(np.empty(0), np.empty(0, np.int64)).prefix(1).positions) == 0
    with pytest.raises(InputError, match="cap"):
        order.prefix(3, cap=0.0)


def test_fixed_batches_by_hand() -> None:
    class Drawn(np.random.Generator):
        def permutation(self, count: int) -> np.ndarray:  # type: ignore[override]
            assert count == 7
            return np.array([6, 0, 1, 4, 2, 3, 5])

    scores = np.array([5.0, 1.0, 3.0, 3.0, 9.0, 2.0, 3.0])
    order = batches_easy_first(scores, 2, Drawn(np.random.PCG64(0)))
    # Means: (6, 0) 4, (1, 4) 5, (2, 3) 3, (5) 2.
    assert order.positions.tolist() == [5, 2, 3, 6, 0, 1, 4]
    assert order.ends.tolist() == [1, 3, 5, 7]
    assert [len(order.prefix(n).positions) for n in range(1, 8)] == [1, 3, 3, 5, 5, 7, 7]
    # 0.6 * 7 = 4.2 examples at most: the batch that would go above it stays out.
    assert [len(order.prefix(n, cap=0.6).positions) for n in (1, 2, 4, 7)] == [1, 3, 3, 3]


def test_a_cap_below_the_first_batch_cuts_it() -> None:
    order = Order(np.array([3, 1, 0, 2]), np.array([3, 4]))
    assert order.prefix(4, cap=0.5).positions.tolist() == [3, 1]


@given(scored, st.integers(1, 9), st.integers(0, 1000))
def test_fixed_batches_hold_everything_once(data: tuple[np.ndarray, np.ndarray], batch_size: int, seed: int) -> None:
    scores = data[0]
    order = batches_easy_first(scores, batch_size, np.random.default_rng(seed))
    assert sorted(order.positions.tolist()) == list(range(len(scores)))
    parts = np.split(order.positions, order.ends[:-1])
    means = [scores[part].mean() for part in parts]
    assert means == sorted(means)
    assert sorted(map(len, parts), reverse=True)[:-1] == [batch_size] * (len(parts) - 1)
    assert max(map(len, parts)) <= batch_size


def test_batches_need_a_size() -> None:
    with pytest.raises(InputError, match="at least 1"):
        batches_easy_first(SCORES, 0, np.random.default_rng(0))
    assert len(batches_easy_first(np.empty(0), 4, np.random.default_rng(0)).positions) == 0


@given(st.integers(0, 1000), st.booleans())
def test_random_orders_follow_their_generator(seed: int, stratified: bool) -> None:
    labels = np.arange(40) % 4
    first, again, other = (random_order(labels, np.random.default_rng(s), stratified) for s in (seed, seed, seed + 1))
    assert first.positions.tolist() == again.positions.tolist() != other.positions.tolist()
    if stratified:
        assert np.bincount(labels[first.prefix(20).positions]).tolist() == [5, 5, 5, 5]


def test_a_random_subset_is_fresh_each_time_and_uniform() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [8, 4])
    seen = np.zeros(12)
    for _ in range(2000):
        chosen = random_subset(labels, 6, rng).positions
        assert np.bincount(labels[chosen]).tolist() == [4, 2]
        seen[chosen] += 1
    assert np.abs(seen / 2000 - 0.5).max() < 0.06  # five standard deviations


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_are_not_finite_make_no_order(bad: float) -> None:
    scores = np.array([1.0, bad])
    with pytest.raises(RunFailed, match="example 2"):
        easy_first(scores, np.array([0, 0]))
    with pytest.raises(RunFailed, match="example 2"):
        batches_easy_first(scores, 1, np.random.default_rng(0))
    with pytest.raises(RunFailed, match="example 2"):
        importance_sample(scores, 1, np.random.default_rng(0))


def test_importance_by_hand() -> None:
    """Norms 3, 1, 0, 4 of sum 8 and a fifth uniform: p = 0.8 norm/8 + 0.05."""
    chances = np.array([0.35, 0.15, 0.05, 0.45])
    chosen = importance_sample(np.array([9.0, 1.0, 0.0, 16.0]), 1000, np.random.default_rng(0), uniform_share=0.2)
    assert chosen.weights is not None
    np.testing.assert_allclose(chosen.weights, 1 / (4 * chances[chosen.positions]), rtol=1e-12)
    counts = np.bincount(chosen.positions, minlength=4)
    assert (np.abs(counts - 1000 * chances) <= 1).all()
    assert chosen.weights.mean() == pytest.approx(1, abs=0.02)


@settings(max_examples=40)
@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=8), st.integers(1, 6), st.floats(0.05, 1))
def test_importance_weights_are_unbiased(difficulty: list[float], count: int, share: float) -> None:
    """Over evenly spaced offsets of the systematic draw, the mean of (count_i * weight_i) / m is 1/n for every i."""

    class Spaced(np.random.Generator):
        offset = 0.0

        def random(self) -> float:  # type: ignore[override]
            return self.offset

    rng, values = Spaced(np.random.PCG64(0)), np.array(difficulty)
    draws, total = 100, np.zeros(len(values))
    state = rng.bit_generator.state
    for number in range(draws):
        rng.bit_generator.state = state  # the same random order for every offset
        rng.offset = (number + 0.5) / draws
        chosen = importance_sample(values, count, rng, share)
        assert chosen.weights is not None
        assert chosen.weights.max() <= 1 / share * (1 + 1e-9)
        np.add.at(total, chosen.positions, chosen.weights / count)
    spread = 1 / share / draws * 2 / count  # an offset grid misses each end of an interval by half a step
    np.testing.assert_allclose(total / draws, 1 / len(values), atol=spread)


def test_importance_of_equal_or_zero_difficulties_is_uniform() -> None:
    for values in (np.zeros(5), np.full(5, 3.0)):
        chosen = importance_sample(values, 5, np.random.default_rng(1))
        assert sorted(chosen.positions.tolist()) == [0, 1, 2, 3, 4]
        np.testing.assert_allclose(chosen.weights, np.ones(5), rtol=1e-12)


def test_impossible_draws_are_refused() -> None:
    rng = np.random.default_rng(0)
    for share in (0.0, 1.5):
        with pytest.raises(InputError, match="uniform share"):
            importance_sample(SCORES, 3, rng, share)
    for values, count in ((SCORES, 0), (np.empty(0), 1)):
        with pytest.raises(InputError, match="cannot draw"):
            importance_sample(values, count, rng)
    with pytest.raises(RunFailed, match="negative"):
        importance_sample(np.array([1.0, -1.0]), 1, rng)
