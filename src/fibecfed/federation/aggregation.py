"""Folding replies into one model, in device order and float64, so that arrival order changes nothing."""

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from fibecfed.federation.messages import Delivery, Failure


class Aggregator(Protocol):
    """An accumulator of weighted tensors."""

    def fold(self, tensors: Mapping[str, Tensor], weight: float) -> None:
        """Take one device's tensors."""

    def result(self) -> dict[str, Tensor]:
        """The aggregate, in the tensors' own dtype; empty if nothing was folded."""


class WeightedMean:
    """sum w_k x_k / sum w_k in float64 (McMahan et al. 2017, FederatedAveraging); one running sum is kept."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._dtypes: dict[str, torch.dtype] = {}
        self._weight = 0.0

    def fold(self, tensors: Mapping[str, Tensor], weight: float) -> None:
        self._weight += weight
        for name, tensor in tensors.items():
            if name not in self._sums:
                self._sums[name] = torch.zeros(tensor.shape, dtype=torch.float64)
                self._dtypes[name] = tensor.dtype
            self._sums[name].add_(tensor, alpha=weight)

    def result(self) -> dict[str, Tensor]:
        return {name: (total / self._weight).to(self._dtypes[name]) for name, total in self._sums.items()}


class Sum(WeightedMean):
    """sum w_k x_k in float64."""

    def result(self) -> dict[str, Tensor]:
        return {name: total.to(self._dtypes[name]) for name, total in self._sums.items()}


class CoordinateMedian:
    """The unweighted median of each coordinate (Yin et al. 2018); the mean of the middle two when even."""

    def __init__(self) -> None:
        self._replies: list[Mapping[str, Tensor]] = []

    def fold(self, tensors: Mapping[str, Tensor], weight: float) -> None:
        self._replies.append(dict(tensors))

    def result(self) -> dict[str, Tensor]:
        names: Sequence[str] = list(self._replies[0]) if self._replies else []
        return {name: _median([reply[name] for reply in self._replies]) for name in names}


def _median(tensors: Sequence[Tensor]) -> Tensor:
    return torch.quantile(torch.stack(list(tensors)).double(), 0.5, dim=0).to(tensors[0].dtype)


AGGREGATORS: dict[str, type[WeightedMean] | type[CoordinateMedian]] = {"mean": WeightedMean, "median": CoordinateMedian}


def in_order(answers: Iterable[Delivery | Failure], cohort: Sequence[int]) -> Iterator[Delivery | Failure]:
    """Answers by ascending device number, each as soon as those before it are there.

    An answer from outside the cohort, or a second one, becomes a Failure that is passed on at once. The first answer
    of a device counts, since it may have been folded when the second arrives (project decision).
    """
    waiting: list[tuple[int, Delivery | Failure]] = []
    expected, asked = sorted(cohort), set(cohort)
    held: set[int] = set()
    position = 0
    for answer in answers:
        device = answer.device if isinstance(answer, Failure) else answer.reply.address.device
        if device not in asked:
            yield Failure(device, "it answered although it was not asked", "unasked")
            continue
        if device in held:
            yield Failure(device, "it answered a second time; its first answer counts", "repeated")
            continue
        held.add(device)
        heapq.heappush(waiting, (device, answer))
        while position < len(expected) and waiting and waiting[0][0] == expected[position]:
            yield heapq.heappop(waiting)[1]
            position += 1
    while waiting:  # only when a transport stopped early
        yield heapq.heappop(waiting)[1]
