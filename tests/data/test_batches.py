"""The order in which examples are seen: whole, seeded, the same for every method, and with little padding."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fibecfed.data import evaluation_batches, training_batches

MANY = settings(max_examples=60, deadline=None, derandomize=True)


def order(**changes: int) -> list[list[int]]:
    keys = {"seed": 0, "round": 1, "device": 2, "epochs": 1} | changes
    return [b.tolist() for b in training_batches(np.arange(50), np.ones(50, int), 8, **keys)]


@MANY
@given(
    total=st.integers(0, 300), size=st.integers(1, 20), epochs=st.integers(1, 3), seed=st.integers(0, 99),
    longest=st.integers(1, 40),
)  # fmt: skip
def test_every_epoch_sees_every_example_once(total: int, size: int, epochs: int, seed: int, longest: int) -> None:
    rng = np.random.default_rng(seed)
    indices = rng.permutation(1000)[:total]
    lengths = rng.integers(1, longest, total, endpoint=True)
    batches = training_batches(indices, lengths, size, seed=seed, round=3, device=4, epochs=epochs)
    per_epoch = -(-total // size)
    assert len(batches) == epochs * per_epoch
    for epoch in range(epochs):
        part = batches[epoch * per_epoch : (epoch + 1) * per_epoch]
        assert sorted(np.concatenate([*part, []]).tolist()) == sorted(indices.tolist())
        assert sorted(map(len, part), reverse=True)[:-1] == [size] * max(0, per_epoch - 1)
    one = training_batches(indices, lengths, size, seed=seed, round=3, device=4, epochs=1)
    assert all(np.array_equal(a, b) for a, b in zip(one, batches, strict=False))  # later epochs do not move the first


def test_the_order_depends_on_seed_round_device_and_epoch() -> None:
    base = order()
    assert order() == base
    others = [order(seed=1), order(round=2), order(device=3), order(epochs=2)[len(base) :]]
    assert all(other != base for other in others)
    assert len({str(other) for other in others}) == len(others)


def test_steps_cut_the_list() -> None:
    arguments = {"seed": 0, "round": 1, "device": 2, "epochs": 2}
    lengths = np.arange(1, 51)
    whole = training_batches(np.arange(50), lengths, 8, **arguments)
    for steps in (1, 7, 9, 14, 99):
        cut = training_batches(np.arange(50), lengths, 8, **arguments, steps=steps)
        assert [b.tolist() for b in cut] == [b.tolist() for b in whole[:steps]]
    assert len(whole) == 14


def test_batches_of_like_lengths_need_little_padding() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.geometric(0.05, 2000)
    batches = training_batches(np.arange(2000), lengths, 16, seed=0, round=1, device=0, epochs=1)

    def padded(parts: list[np.ndarray]) -> float:
        return sum(len(p) * lengths[p].max() for p in parts) / lengths.sum()

    shuffled = rng.permutation(2000)
    assert padded([shuffled[i : i + 16] for i in range(0, 2000, 16)]) > 2.5
    assert padded(batches) < 1.6
    means = np.array([lengths[b].mean() for b in batches])
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.35  # batches of all lengths come in mixed order


def test_every_example_is_as_likely_at_every_step() -> None:
    rounds, total = 2000, 24
    lengths = np.arange(1, total + 1)
    seen = np.zeros((3, total))
    for number in range(rounds):
        for step, batch in enumerate(
            training_batches(np.arange(total), lengths, 8, seed=5, round=number, device=0, epochs=1)
        ):
            seen[step, batch] += 1
    # Each cell is binomial(2000, 1/3): five standard deviations.
    assert np.abs(seen / rounds - 1 / 3).max() < 5 * np.sqrt(2 / 9 / rounds)


@MANY
@given(total=st.integers(0, 100), size=st.integers(1, 20), seed=st.integers(0, 99))
def test_evaluation_goes_from_short_to_long(total: int, size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    indices, lengths = np.sort(rng.permutation(500)[:total]), rng.integers(1, 9, total)
    batches = list(evaluation_batches(indices, lengths, size))
    expected = sorted(range(total), key=lambda i: (lengths[i], indices[i]))
    assert np.concatenate([*batches, []]).tolist() == [indices[i] for i in expected]
    assert all(len(b) == size for b in batches[:-1])
    assert len(batches) == -(-total // size)
