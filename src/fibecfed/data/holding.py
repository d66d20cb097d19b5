"""Who holds which example, as everything but the data itself sees it."""

from collections.abc import Iterator
from typing import Protocol

import numpy as np

# Files and tables have a line for each device up to so many: beyond, what is said of a run would grow with them.
# Source: project decision.
MOST_LISTED = 10_000


def require_device(device: int, devices: int) -> None:
    """Raise IndexError for a device that is none of so many."""
    if not 0 <= device < devices:
        raise IndexError(f"device {device} of {devices}")


class Holding(Protocol):
    """Which of N examples each of K devices holds. Nothing in it has to grow with K."""

    @property
    def devices(self) -> int:
        """K."""

    @property
    def names(self) -> tuple[str, ...] | None:
        """Of the devices, where the data brought them."""

    @property
    def domains(self) -> tuple[str, ...] | None:
        """(K,) which of several joined data sets a device's rows are of."""

    @property
    def sizes(self) -> np.ndarray:
        """Examples per device, (K,) int64; perhaps a view of one number."""

    @property
    def countable(self) -> int:
        """So many of the first devices are counted in tables: all of them, or MOST_LISTED where each takes work."""

    def indices(self, device: int) -> np.ndarray:
        """Ascending positions of one device's examples. Raises IndexError for a device that does not exist."""

    def label_counts(self, labels: np.ndarray, classes: int, most: int | None = None) -> np.ndarray:
        """Examples of each class on each device (the first ``most``), (K, C) int64. ``labels``: (N,), below C."""

    def described(self) -> Iterator[str]:
        """Words that tell it from any other."""

    def shares(self, labels: np.ndarray, classes: int) -> Iterator[str]:
        """Words that tell how many examples of each class each device holds."""


class Owners(Holding, Protocol):
    """A holding in which every example belongs to one device."""

    def owner(self) -> np.ndarray:
        """The device of each example, (N,) int64."""
