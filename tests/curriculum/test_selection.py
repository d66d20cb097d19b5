"""The curriculum's settings lead to the order, the pacing and the draws they name."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from fibecfed.config import CurriculumConfig
from fibecfed.curriculum import Selection, easy_first, prefix_fraction, prefix_size
from fibecfed.curriculum.selection import select

LABELS = np.arange(30) % 3
DIFFICULTY = np.random.default_rng(0).gamma(1.0, size=30)


def chosen(step: int, *, seed: int = 0, device: int = 0, **settings: Any) -> Selection:
    return select(
        CurriculumConfig(**settings), DIFFICULTY, LABELS,
        step=step, steps=10, batch_size=4, seed=seed, device=device,
    )  # fmt: skip


@pytest.mark.parametrize("stratified", [True, False])
@pytest.mark.parametrize("pacing", ["linear", "sqrt", "exp"])
def test_each_round_takes_the_easiest_of_its_size(stratified: bool, pacing: Any) -> None:
    order = easy_first(DIFFICULTY, LABELS, stratified).positions
    for step in range(10):
        count = prefix_size(prefix_fraction(pacing, step, 10, 0.3, 0.5), 30)
        found = chosen(step, stratified=stratified, pacing=pacing, start=0.3, full_at=0.5)
        assert found.positions.tolist() == order[:count].tolist()
        assert found.weights is None
    assert len(found.positions) == 30


def test_a_cap_keeps_the_hardest_out_to_the_end() -> None:
    hardest = np.argsort(DIFFICULTY)[-6:]
    assert not set(hardest) & set(chosen(9, cap=0.8, stratified=False).positions.tolist())
    assert len(chosen(9, cap=0.8).positions) == 24


def test_batches_are_the_same_in_every_round_and_whole() -> None:
    rounds = [chosen(step, unit="batch").positions for step in range(10)]
    assert all(np.array_equal(late[: len(early)], early) for early, late in pairwise(rounds))
    assert all(len(r) % 4 in (0, 2) for r in rounds)  # 30 examples: one of the batches of 4 has 2
    assert chosen(0, unit="batch", device=1).positions.tolist() != rounds[0].tolist()


def test_a_fresh_draw_changes_with_the_round_and_the_device() -> None:
    assert np.bincount(LABELS[chosen(0, fresh=True).positions]).tolist() == [6, 6, 6]
    draws = [
        tuple(sorted(chosen(step, fresh=True, cap=0.5, **keys).positions.tolist()))
        for step, keys in ((0, {}), (1, {}), (0, {"device": 1}), (0, {"seed": 1}), (0, {}))
    ]
    assert all(len(draw) == 15 for draw in draws)
    assert draws[0] == draws[-1]
    assert len(set(draws)) == 4


def test_importance_starts_when_all_data_is_in_use() -> None:
    assert chosen(7, importance=True).weights is None
    found = chosen(8, importance=True)
    assert found.weights is not None
    assert len(found.positions) == 30
    chances = 0.9 * np.sqrt(DIFFICULTY) / np.sqrt(DIFFICULTY).sum() + 0.1 / 30
    np.testing.assert_allclose(found.weights, 1 / (30 * chances[found.positions]), rtol=1e-12)
    assert chosen(9, importance=True).positions.tolist() != found.positions.tolist()
    easy = set(easy_first(DIFFICULTY, LABELS).positions[:15].tolist())
    assert set(chosen(9, importance=True, cap=0.5).positions.tolist()) <= easy
