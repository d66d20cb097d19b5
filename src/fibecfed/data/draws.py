"""Devices that draw their examples from common ones, each for itself: there may be far more devices than examples."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fibecfed.config.data import PartitionConfig
from fibecfed.data.holding import MOST_LISTED, Owners, require_device
from fibecfed.data.partition import Partition, log_dirichlet, partition_like, take
from fibecfed.errors import InputError
from fibecfed.seeding import stream


@dataclass(frozen=True)
class Draws:
    """Each of K devices holds ``size`` different ones of N examples, f(seed, device); two may hold the same.

    What a device holds is drawn when it is asked for, so that nothing here grows with K.
    """

    devices: int  # K
    size: int
    seed: int
    order: np.ndarray  # (N,) int64 positions by class
    room: np.ndarray  # (C,) int64 examples of each class
    concentration: float | None = None  # of a device's label proportions around all examples'; None: drawn evenly
    names: tuple[str, ...] | None = None
    domains: tuple[str, ...] | None = None

    @property
    def sizes(self) -> np.ndarray:
        """(K,) int64; a view of one number."""
        return np.broadcast_to(np.int64(self.size), self.devices)

    @property
    def countable(self) -> int:
        """The first devices: what each holds has to be drawn."""
        return min(self.devices, MOST_LISTED)

    def indices(self, device: int) -> np.ndarray:
        """Ascending positions of one device's examples. Raises IndexError for a device that does not exist."""
        require_device(device, self.devices)
        rng = stream(self.seed, "examples of a device", device)
        if self.concentration is None:
            return np.sort(self.order[rng.choice(len(self.order), self.size, replace=False)])
        log_q = log_dirichlet(self.concentration, self.room / len(self.order), 1, rng)[0]
        counts = take(np.exp(log_q - log_q.max()), self.room, self.size, rng)
        first = np.cumsum(self.room) - self.room
        parts = [first[c] + rng.choice(self.room[c], counts[c], replace=False) for c in np.flatnonzero(counts).tolist()]
        return np.sort(self.order[np.concatenate(parts)])

    def label_counts(self, labels: np.ndarray, classes: int, most: int | None = None) -> np.ndarray:
        """Examples of each class on each device (the first ``most``), (K, C) int64: draws them all."""
        return self.counts_of(np.arange(self.devices if most is None else min(most, self.devices)), labels, classes)

    def counts_of(self, devices: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
        """Examples of each class on these devices, (M, C) int64."""
        found = [np.bincount(labels[self.indices(k)], minlength=classes) for k in devices.tolist()]
        return np.array(found, np.int64).reshape(len(devices), classes)

    def described(self) -> Iterator[str]:
        """What the draws depend on beside the examples."""
        yield f"drawn by {self.devices} devices, {self.size} each, seed {self.seed}, around {self.concentration!r}"
        yield from map(str, self.order)

    def shares(self, labels: np.ndarray, classes: int) -> Iterator[str]:
        """As ``described``: who holds how much follows from it."""
        return self.described()


@dataclass(frozen=True)
class SomeHold:
    """Of K devices the M with these numbers hold all the examples, and the others none."""

    devices: int  # K
    numbers: np.ndarray  # (M,) int64, ascending
    dealt: Partition  # to the M
    names: tuple[str, ...] | None = None
    domains: tuple[str, ...] | None = None

    @property
    def sizes(self) -> np.ndarray:
        """Examples per device, (K,) int64."""
        found = np.zeros(self.devices, np.int64)
        found[self.numbers] = self.dealt.sizes
        return found

    @property
    def countable(self) -> int:
        """All devices."""
        return self.devices

    def indices(self, device: int) -> np.ndarray:
        """Ascending positions of one device's examples. Raises IndexError for a device that does not exist."""
        require_device(device, self.devices)
        place = int(np.searchsorted(self.numbers, device))
        if place == len(self.numbers) or self.numbers[place] != device:
            return self.dealt.order[:0]
        return self.dealt.indices(place)

    def owner(self) -> np.ndarray:
        """The device of each example, (N,) int64."""
        found: np.ndarray = self.numbers[self.dealt.owner()]
        return found

    def label_counts(self, labels: np.ndarray, classes: int, most: int | None = None) -> np.ndarray:
        """Examples of each class on each device (the first ``most``), (K, C) int64. ``labels``: (N,), below C."""
        found = np.zeros((self.devices if most is None else min(most, self.devices), classes), np.int64)
        here = self.numbers < len(found)
        found[self.numbers[here]] = self.dealt.label_counts(labels, classes)[here]
        return found

    def described(self) -> Iterator[str]:
        """Which devices, and which example is whose."""
        yield str(self.devices)
        yield from map(str, self.numbers)
        yield from self.dealt.described()

    def shares(self, labels: np.ndarray, classes: int) -> Iterator[str]:
        """How many examples of each class those devices hold."""
        yield str(self.devices)
        yield from map(str, self.numbers)
        yield from self.dealt.shares(labels, classes)


def draw_for_each(labels: np.ndarray, classes: int, config: PartitionConfig, devices: int, seed: int) -> Draws:
    """As ``config.kind`` says (dirichlet, dirichlet-hsu, iid), ``config.examples_per_device`` for each of K devices.

    ``labels``: (N,) int64 below ``classes``. Label proportions are drawn as for a partition, and a class of which too
    little is there is made up for by others. Raises InputError for more examples than there are.
    Source: docs/method.md section 1 [D].
    """
    size, kind = config.examples_per_device, config.kind or "dirichlet"
    assert size is not None
    if size > len(labels):
        raise InputError(
            f"data.partition.examples_per_device={size}, but only {len(labels)} training examples are there, and a "
            "device draws each at most once; lower it."
        )
    room = np.bincount(labels, minlength=classes)
    present = np.count_nonzero(room) if kind == "dirichlet" else 1
    concentration = None if kind == "iid" else config.alpha * present
    return Draws(devices, size, seed, np.argsort(labels, kind="stable"), room, concentration)


def deal_to_some(
    draws: Draws, train_labels: np.ndarray, labels: np.ndarray, classes: int, seed: int, rng: np.random.Generator
) -> Owners:
    """Deal N held-out examples so that each shard resembles its device; where K > N, to N of the devices, one each.

    Which ones is f(seed, K, N). ``train_labels`` and ``labels``: of the training and the held-out examples.
    """
    count = min(draws.devices, len(labels))
    judged = stream(seed, "devices that are judged")
    chosen = np.arange(count)
    if count < draws.devices:
        chosen = np.sort(judged.choice(draws.devices, count, replace=False))
    dealt = partition_like(draws.counts_of(chosen, train_labels, classes), labels, classes, rng)
    return dealt if count == draws.devices else SomeHold(draws.devices, chosen, dealt)
