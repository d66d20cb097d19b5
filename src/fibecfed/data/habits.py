"""Devices that label by a habit of their own: each takes two labels for each other, always."""

from dataclasses import dataclass

import numpy as np

from fibecfed.data.partition import Partition


@dataclass(frozen=True)
class Habits:
    """Which two labels each of K devices takes for each other."""

    pairs: np.ndarray  # (K, 2) int64; the same label twice: the device has no habit

    @property
    def swaps(self) -> dict[int, tuple[int, int]]:
        """The two labels by device, for those that have a habit."""
        return {int(k): (int(a), int(b)) for k, (a, b) in enumerate(self.pairs) if a != b}

    def as_labelled(self, labels: np.ndarray, owned: Partition) -> np.ndarray:
        """The labels (N,) as the devices that hold the examples would say them; a new array."""
        one, other = self.pairs[owned.owner()].T
        return np.where(labels == one, other, np.where(labels == other, one, labels))


def draw_habits(fraction: float, labels: np.ndarray, owned: Partition, rng: np.random.Generator) -> Habits:
    """round(fraction x K) devices, drawn evenly, get a habit each.

    A habit is the label of a random one of the device's training examples, so that it shows, and another of the labels
    that occur, evenly. Nobody gets one where a single label occurs.
    Source: project decision (docs/method.md section 1).
    """
    pairs = np.zeros((owned.devices, 2), np.int64)
    occurring = np.unique(labels)
    chosen = rng.choice(owned.devices, size=round(fraction * owned.devices), replace=False)
    for device in np.sort(chosen) if len(occurring) > 1 else ():
        mine = labels[owned.indices(int(device))]
        one = mine[rng.integers(len(mine))]
        pairs[device] = one, rng.choice(occurring[occurring != one])
    return Habits(pairs)
