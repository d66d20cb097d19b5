"""Aggregation against numbers worked out by hand, and its independence of arrival order."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from fibecfed.federation import Address, CoordinateMedian, Delivery, Failure, Reply, WeightedMean, in_order


def test_the_mean_is_weighted_by_examples() -> None:
    mean = WeightedMean()
    mean.fold({"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([[4.0]])}, 30)
    mean.fold({"a": torch.tensor([5.0, -2.0]), "b": torch.tensor([[8.0]])}, 10)
    result = mean.result()
    # (30 * 1 + 10 * 5) / 40 = 2, (30 * 2 - 10 * 2) / 40 = 1, (30 * 4 + 10 * 8) / 40 = 5
    assert result["a"].tolist() == [2.0, 1.0]
    assert result["b"].tolist() == [[5.0]]
    assert result["a"].dtype == torch.float32


def test_the_mean_is_summed_in_float64() -> None:
    mean = WeightedMean()
    for value in (1.0, 1e8, -1e8, 1.0):  # in float32 the first 1 would be lost
        mean.fold({"a": torch.tensor([value])}, 1)
    assert mean.result()["a"].tolist() == [0.5]


def test_the_median_takes_the_middle_of_each_coordinate() -> None:
    median = CoordinateMedian()
    for values in ([1.0, 9.0], [2.0, -50.0], [900.0, 3.0]):
        median.fold({"a": torch.tensor(values)}, 1)
    assert median.result()["a"].tolist() == [2.0, 3.0]
    median.fold({"a": torch.tensor([4.0, 5.0])}, 1)
    assert median.result()["a"].tolist() == [3.0, 4.0]  # even: the mean of the middle two


def answer(device: int) -> Delivery:
    return Delivery(Reply(Address("r", 1, "train", device), {}), 0, 0)


@given(st.permutations(range(6)), st.sets(st.integers(0, 5)))
def test_answers_come_in_device_order_whatever_the_arrival(arrival: list[int], failed: set[int]) -> None:
    answers = [Failure(d, "late") if d in failed else answer(d) for d in arrival]
    ordered = list(in_order(answers, range(6)))
    assert [a.device if isinstance(a, Failure) else a.reply.address.device for a in ordered] == list(range(6))


def test_an_answer_is_passed_on_as_soon_as_those_before_it_are_there() -> None:
    passed: list[int] = []

    def arriving():  # type: ignore[no-untyped-def]
        for device, expected in ((1, []), (0, []), (2, [0, 1])):
            assert passed == expected
            yield answer(device)

    for got in in_order(arriving(), (0, 1, 2)):
        assert isinstance(got, Delivery)
        passed.append(got.reply.address.device)
    assert passed == [0, 1, 2]


def test_strangers_and_second_answers_become_failures() -> None:
    answers = [answer(3), answer(7), answer(3), answer(5), Failure(5, "its connection broke")]
    ordered = list(in_order(answers, (3, 5)))
    assert [a.reply.address.device for a in ordered if isinstance(a, Delivery)] == [3, 5]
    assert [(a.device, a.kind) for a in ordered if isinstance(a, Failure)] == [
        (7, "unasked"), (3, "repeated"), (5, "repeated"),
    ]  # fmt: skip


@given(st.permutations(range(5)))
def test_the_mean_does_not_depend_on_arrival_order(arrival: list[int]) -> None:
    rng = np.random.default_rng(0)
    tensors = [torch.from_numpy(rng.normal(size=3).astype(np.float32)) for _ in range(5)]

    def mean(order: list[int]) -> list[float]:
        folded = WeightedMean()
        answers = [Delivery(Reply(Address("r", 1, "train", d), {"a": tensors[d]}), 0, 0) for d in order]
        for got in in_order(answers, range(5)):
            assert isinstance(got, Delivery)
            folded.fold(got.reply.tensors, 1 + got.reply.address.device)
        return folded.result()["a"].tolist()

    assert mean(list(arrival)) == mean(list(range(5)))
