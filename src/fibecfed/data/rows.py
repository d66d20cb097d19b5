"""Labelled texts in memory, before tokenising, and seeded draws from them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fibecfed.errors import InputError


@dataclass(frozen=True)
class Rows:
    """N labelled texts. ``devices`` names the site each row belongs to, where the data says so."""

    texts: Sequence[str]
    pairs: Sequence[str] | None
    labels: np.ndarray  # (N,) int64, indices into label_names
    label_names: tuple[str, ...]
    devices: np.ndarray | None = None  # (N,) str

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> "Rows":
        """The rows at these positions."""
        return replace(
            self,
            texts=[self.texts[i] for i in indices],
            pairs=None if self.pairs is None else [self.pairs[i] for i in indices],
            labels=self.labels[indices],
            devices=None if self.devices is None else self.devices[indices],
        )


def split_counts(sizes: np.ndarray, total: int) -> np.ndarray:
    """``total`` units dealt in proportion to ``sizes``, never more than each size; largest remainder, ties by index."""
    if not 0 <= total <= sizes.sum():
        raise ValueError(f"cannot deal {total} units to groups of {sizes.tolist()}")
    share = sizes * (total / max(1, sizes.sum()))
    counts = np.floor(share).astype(np.int64)
    order = np.argsort(-(share - counts), kind="stable")
    counts[order[: total - counts.sum()]] += 1
    return counts


def stratified(labels: np.ndarray, total: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Positions of a stratified draw of ``total`` rows, and of the rest; both ascending.

    Each class gives its share of the total (largest remainder).
    """
    classes = np.unique(labels)
    groups = [np.flatnonzero(labels == c) for c in classes]
    counts = split_counts(np.array([len(g) for g in groups]), total)
    taken = [rng.permutation(g)[:k] for g, k in zip(groups, counts, strict=True)]
    chosen = np.sort(np.concatenate(taken)) if taken else np.empty(0, np.int64)
    return chosen, np.setdiff1d(np.arange(len(labels)), chosen, assume_unique=True)


def draw(rows: Rows, total: int | None, what: str, rng: np.random.Generator) -> Rows:
    """A stratified draw of ``total`` rows; None keeps all. Raises InputError when there are fewer."""
    if total is None:
        return rows
    if total > len(rows):
        raise InputError(f"data.{what}={total}, but the data has only {len(rows)} such examples.")
    return rows.take(stratified(rows.labels, total, rng)[0])


def flip_labels(rows: Rows, fraction: float, rng: np.random.Generator) -> Rows:
    """Exactly round(fraction x N) rows get another label, uniform over the other classes."""
    if not fraction:
        return rows
    classes = len(rows.label_names)
    flipped = rng.choice(len(rows), size=round(fraction * len(rows)), replace=False)
    labels = rows.labels.copy()
    labels[flipped] = (labels[flipped] + rng.integers(1, classes, size=len(flipped))) % classes
    return replace(rows, labels=labels)
