"""The picture of a partition: a stacked bar for each device."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fibecfed.results.palette import COLOURS, HATCHES, MOST_AREAS, hatched, largest

_MOST_BARS = 200
_MOST_NAMED = 40  # bars with a device's name under each


def partition_png(counts: np.ndarray, label_names: Sequence[str], names: Sequence[str] | None, title: str) -> bytes:
    """A PNG of ``counts``, (K, C) examples of each label on each device; ``names`` of the K devices, or None.

    More than 200 devices are sorted by their largest label and 200 of them drawn, at equal steps; beyond 20 labels
    the 19 largest have a colour each and the others share one. The axes say so.
    """
    devices = np.arange(len(counts))
    axis = "device"
    if len(counts) > _MOST_BARS:
        largest = counts.argmax(axis=1)
        order = np.lexsort((-counts.max(axis=1), largest))
        devices = order[np.linspace(0, len(order) - 1, _MOST_BARS).round().astype(np.int64)]
        axis = f"{_MOST_BARS} of {len(counts):,} devices, sorted by their largest label"
    shown, legend = _few_labels(counts, label_names)
    figure = Figure(figsize=(min(16.0, 6.0 + 0.2 * len(devices)), 4.5), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(devices))
    base = np.zeros(len(devices))
    for c, name in enumerate(legend):
        colour, hatch = hatched(c)
        looks: dict[str, Any] = {
            "color": COLOURS[colour],
            "hatch": HATCHES[hatch],
            "edgecolor": "white",
            "linewidth": 0,
        }
        axes.bar(places, shown[devices, c], bottom=base, label=name, width=0.85, **looks)
        base += shown[devices, c]
    if len(devices) <= _MOST_NAMED:
        ticks = [names[k] if names else str(k) for k in devices.tolist()]
        long = max(map(len, ticks)) > 3
        axes.set_xticks(places, ticks, rotation=45 if long else 0, ha="right" if long else "center")
        for tick in axes.get_xticklabels():
            tick.set_parse_math(False)
    elif len(devices) < len(counts):
        axes.set_xticks([])
    axes.margins(x=0.01)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(axis)
    axes.set_ylabel("training examples")
    axes.set_title(f"Who holds what: {title}", fontsize=10, parse_math=False)
    for text in axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8, reverse=True).get_texts():
        text.set_parse_math(False)  # a label such as "$5 or $10" is no formula
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


def _few_labels(counts: np.ndarray, label_names: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """At most twenty columns and their names."""
    if counts.shape[1] <= MOST_AREAS:
        return counts, list(label_names)
    kept, others = largest(counts.sum(axis=0))
    names = [label_names[c] for c in kept] + [f"{len(others)} other labels"]
    return np.column_stack([counts[:, kept], counts[:, others].sum(axis=1)]), names
