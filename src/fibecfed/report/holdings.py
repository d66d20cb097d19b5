"""Who holds what: the examples of each device, by group."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fibecfed.report.areas import Bar, bar_picture, mixture
from fibecfed.report.page import Cell, Chart, Key, Table
from fibecfed.results.palette import MOST_AREAS, largest

_MOST_BARS, _MOST_ROWS = 60, 1000


def device_name(held: Mapping[str, Any], device: int) -> str:
    """Its name, where it has one; else its number."""
    names = held.get("names")
    return str(names[device]) if names and device < len(names) else f"device {device}"


def few_groups(counts: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """(K, at most 20) counts with the names of the columns: the largest groups, and all others together."""
    if counts.shape[1] <= MOST_AREAS:
        return counts, [names[g] if g < len(names) else f"group {g}" for g in range(counts.shape[1])]
    kept, others = largest(counts.sum(axis=0))
    shown = [names[g] if g < len(names) else f"group {g}" for g in kept]
    return np.column_stack([counts[:, kept], counts[:, others].sum(axis=1)]), [*shown, f"{len(others)} others"]


def counts_of(held: Mapping[str, Any], part: str = "train") -> np.ndarray | None:
    """(K, G) examples; where only sizes are known, (K, 1); None where not even those are."""
    if held.get(part) is not None:
        return np.asarray(held[part], dtype=np.int64)
    sizes = held.get("train_sizes") if part == "train" else None
    if not sizes:
        return None
    found = np.zeros((int(held["devices"]), 1), dtype=np.int64)
    for device, size in sizes.items():
        found[int(device), 0] = size
    return found


def holdings_chart(held: Mapping[str, Any], names: Sequence[str], group: str) -> Chart | None:
    """Bars of training examples by device, in parts by group; ``group``: what users call it."""
    counts = counts_of(held)
    if counts is None or not counts.size:
        return None
    shown, areas = few_groups(counts, names)
    sizes = counts.sum(axis=1)
    drawn = np.arange(len(counts))
    if len(counts) > _MOST_BARS:
        drawn = np.argsort(-sizes, kind="stable")[np.linspace(0, len(counts) - 1, _MOST_BARS).round().astype(np.int64)]
    bars = [
        Bar(device_name(held, k), [(g, float(shown[k, g]), areas[g]) for g in range(shown.shape[1])])
        for k in drawn.tolist()
    ]
    low, high = int(sizes.min()), int(sizes.max())
    spread = f"{low:,} training examples" if low == high else f"{low:,} to {high:,} training examples"
    title = f"Who holds what: {len(counts):,} devices with {spread} each"
    several = counts.shape[1] > 1
    note = f"Each bar is a device, its parts the examples of each {group}." if several else "Each bar is a device."
    if len(drawn) < len(counts):
        note += f" {_MOST_BARS} devices are drawn, at equal steps from the largest to the smallest."
    keys = [Key.of_area(name, number) for number, name in enumerate(areas)] if several else []
    picture = bar_picture(title, bars, "training examples", width=660, whole=True)
    return Chart(title, [("", None, [picture])], _table(held, shown, areas), note, keys, wide=True)


def _table(held: Mapping[str, Any], shown: np.ndarray, areas: Sequence[str]) -> Table:
    several = shown.shape[1] > 1
    rows = [
        [
            Cell(device_name(held, k), k),
            Cell(f"{shown[k].sum():,}", int(shown[k].sum())),
            *([Cell(f"{n:,}", n) for n in shown[k].tolist()] if several else []),
        ]
        for k in range(min(len(shown), _MOST_ROWS))
    ]
    notes = [f"The first {_MOST_ROWS:,} of {len(shown):,} devices."] if len(shown) > _MOST_ROWS else []
    columns = ["device", "examples", *(areas if several else [])]
    return Table("Training examples of each device", columns, rows, notes)


def mixture_cell(counts: Sequence[int], areas: Sequence[str]) -> Cell:
    """What a device's examples are made of: a small bar that says its largest parts when it is pointed at."""
    order = sorted(range(len(counts)), key=lambda g: -counts[g])
    said = ", ".join(f"{areas[g]} {counts[g]:,}" for g in order if counts[g])
    largest = counts[order[0]] / max(1, sum(counts)) if order else 0.0
    return Cell(mixture(counts, said), largest)
