"""The picture of a run: score by round, by bytes and by simulated time."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from fibecfed.results.summary import metric_of, score_of


def curves_png(records: Sequence[Mapping[str, Any]], title: str) -> bytes:
    """A PNG of both protocols' score against rounds, megabytes and simulated seconds."""
    axes_of = (
        ("round", [r["round"] for r in records]),
        ("traffic, MB", [(r["bytes_up"] + r["bytes_down"]) / 1e6 for r in records]),
        ("simulated time, s", [r["simulated_seconds"] for r in records]),
    )
    from matplotlib.figure import Figure  # slow to import

    figure = Figure(figsize=(11, 3.4), layout="constrained")
    panels = figure.subplots(1, len(axes_of), sharey=True)
    for axes, (title, values) in zip(panels, axes_of, strict=True):
        axes.plot(values, [score_of(r, "global") for r in records], marker=".", label="global")
        axes.plot(
            values, [score_of(r, "personalized") for r in records], marker=".", linestyle="--", label="personalized"
        )
        axes.set_xlabel(title)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel(metric_of(records))
    panels[0].legend()
    figure.suptitle(title, fontsize=10)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()
