"""Labelled texts in memory, before tokenising, and seeded draws from them."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fibecfed.errors import InputError


@dataclass(frozen=True)
class Rows:
    """N labelled texts. ``devices`` names the site each row belongs to, where the data says so.

    ``domains`` names the data set each row is of, where several were joined.
    """

    texts: Sequence[str]
    pairs: Sequence[str] | None
    labels: np.ndarray  # (N,) int64, indices into label_names
    label_names: tuple[str, ...]
    devices: np.ndarray | None = None  # (N,) str
    examples: Sequence[Any] | None = None  # what a task reads of each row beside its texts
    domains: np.ndarray | None = None  # (N,) str

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def sites(self) -> int | None:
        """How many devices the rows name; None where they name none."""
        return None if self.devices is None else len(np.unique(self.devices))

    @property
    def strata(self) -> np.ndarray:
        """(N,) int64: the label, or the pair of domain and label, that draws keep the proportions of."""
        if self.domains is None:
            return self.labels
        domain: np.ndarray = np.unique(self.domains, return_inverse=True)[1]
        return domain * len(self.label_names) + self.labels

    def take(self, indices: np.ndarray) -> "Rows":
        """The rows at these positions."""
        return replace(
            self,
            texts=[self.texts[i] for i in indices],
            pairs=None if self.pairs is None else [self.pairs[i] for i in indices],
            labels=self.labels[indices],
            devices=None if self.devices is None else self.devices[indices],
            examples=None if self.examples is None else [self.examples[i] for i in indices],
            domains=None if self.domains is None else self.domains[indices],
        )


def joined(parts: Sequence[Rows]) -> Rows:
    """The rows of several, one after another; all have the same label names, pairs or none, devices or none."""
    first = parts[0]
    return Rows(
        texts=[text for part in parts for text in part.texts],
        pairs=None if first.pairs is None else [pair for part in parts for pair in part.pairs or ()],
        labels=np.concatenate([part.labels for part in parts]),
        label_names=first.label_names,
        devices=None if first.devices is None else np.concatenate([p.devices for p in parts if p.devices is not None]),
        domains=None if first.domains is None else np.concatenate([p.domains for p in parts if p.domains is not None]),
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


def hold_out(rows: Rows, total: int, rng: np.random.Generator, by_device: bool = False) -> tuple[Rows, Rows]:
    """A seeded draw of ``total`` rows, and the rest; both in their old order.

    Stratified by domain and label, or ``by_device``: every device gives its share, stratified by label within it, and
    keeps at least one row (so fewer than ``total`` are drawn where devices are that small). Source: project decision.
    """
    if not by_device or rows.devices is None:
        chosen, rest = stratified(rows.strata, total, rng)
        return rows.take(chosen), rows.take(rest)
    order = _by_device_and_label(rows.devices, rows.labels, rng)
    free = order[~np.isin(order, _one_of_each(rows.devices, rng))]
    chosen = np.sort(_systematic(free, min(total, len(free)), rng))
    return rows.take(chosen), rows.take(np.setdiff1d(np.arange(len(rows)), chosen, assume_unique=True))


def draw(rows: Rows, total: int | None, what: str, rng: np.random.Generator, by_device: bool = False) -> Rows:
    """A draw of ``total`` rows, stratified by label; None keeps all.

    Of several domains each gives as many, as far as it has them: what is drawn for is seldom to follow their sizes.
    ``by_device``, every device is in it where ``total`` allows. Raises InputError when there are fewer rows.
    """
    if total is None:
        return rows
    if total > len(rows):
        raise InputError(f"data.{what}={total}, but the data has only {len(rows)} such examples.")
    if not by_device or rows.devices is None:
        if rows.domains is None:
            return rows.take(stratified(rows.labels, total, rng)[0])
        domains = [np.flatnonzero(rows.domains == name) for name in np.unique(rows.domains)]
        counts = _evenly(np.array([len(mine) for mine in domains]), total)
        chosen = [mine[stratified(rows.labels[mine], n, rng)[0]] for mine, n in zip(domains, counts, strict=True)]
        return rows.take(np.sort(np.concatenate(chosen)))
    order = _by_device_and_label(rows.devices, rows.labels, rng)
    sure = _one_of_each(rows.devices, rng)
    if total < len(sure):
        return rows.take(np.sort(_systematic(order, total, rng)))
    others = _systematic(order[~np.isin(order, sure)], total - len(sure), rng)
    return rows.take(np.sort(np.concatenate([sure, others])))


def _evenly(sizes: np.ndarray, total: int) -> np.ndarray:
    """``total`` units dealt one by one in turn to groups that hold at most ``sizes`` (G,); int64."""
    level = bisect_right(range(total + 1), total, key=lambda most: int(np.minimum(sizes, most).sum())) - 1
    counts = np.minimum(sizes, level).astype(np.int64)
    counts[np.flatnonzero(sizes > level)[: total - counts.sum()]] += 1
    return counts


def _by_device_and_label(devices: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Positions sorted by device, then label, in random order within both."""
    shuffled = rng.permutation(len(labels))
    return shuffled[np.lexsort((labels[shuffled], devices[shuffled]))]


def _one_of_each(devices: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The position of one row of every device, at random."""
    shuffled = rng.permutation(len(devices))
    return shuffled[np.unique(devices[shuffled], return_index=True)[1]]


def _systematic(order: np.ndarray, total: int, rng: np.random.Generator) -> np.ndarray:
    """``total`` entries at equal steps from a random start, so that every stretch of ``order`` gives its share."""
    steps = (np.arange(total) + rng.random()) * (len(order) / max(1, total))
    return order[np.minimum(steps.astype(np.int64), len(order) - 1)]


def flip_labels(rows: Rows, fraction: float, rng: np.random.Generator) -> Rows:
    """Exactly round(fraction x N) rows get another label, uniform over the other classes."""
    if not fraction:
        return rows
    classes = len(rows.label_names)
    flipped = rng.choice(len(rows), size=round(fraction * len(rows)), replace=False)
    labels = rows.labels.copy()
    labels[flipped] = (labels[flipped] + rng.integers(1, classes, size=len(flipped))) % classes
    return replace(rows, labels=labels)
