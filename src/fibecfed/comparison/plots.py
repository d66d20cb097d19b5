"""The picture of a setting: every method's score against rounds, simulated time and bytes."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from fibecfed.results import metric_of, score_of, sign_of

Curve = Sequence[Mapping[str, Any]]
_AXES = (("round", 1.0), ("simulated seconds", 1.0), ("traffic, MB", 1e-6))


def comparison_png(curves: Mapping[str, Sequence[Curve]], title: str, target: float | None) -> bytes:
    """A PNG of the global score. ``curves`` holds each method's runs, which are averaged point by point over seeds.

    Runs of one method that were not evaluated equally often are averaged over their common first evaluations.
    """
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    panels = figure.subplots(1, len(_AXES), sharey=True)
    colours = matplotlib.colormaps["tab20"]
    for number, (name, runs) in enumerate(curves.items()):
        points = _mean_points(runs)  # (evaluations, 4)
        style = "-" if number < 10 else "--"
        for axes, (_, scale), values in zip(panels, _AXES, points.T[:3], strict=True):
            axes.plot(values * scale, points[:, 3], marker=".", ls=style, color=colours(number % 20), label=name)
    for axes, (title, _) in zip(panels, _AXES, strict=True):
        axes.set_xlabel(title)
        axes.grid(alpha=0.3)
        if target is not None:
            axes.axhline(target, color="black", linewidth=0.8, linestyle=":")
    first = next(iter(curves.values()))[0]
    panels[0].set_ylabel(f"{metric_of(first)}, global{'' if sign_of(first) > 0 else ' (lower is better)'}")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    figure.suptitle(title, fontsize=10)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


def _mean_points(runs: Sequence[Curve]) -> np.ndarray:
    """(evaluations, 4): round, simulated seconds, bytes, score; means over the runs."""
    length = min(map(len, runs))
    points = [
        [[r["round"], r["simulated_seconds"], r["bytes_up"] + r["bytes_down"], score_of(r, "global")] for r in run]
        for run in (list(run)[:length] for run in runs)
    ]
    return np.asarray(points, dtype=np.float64).mean(axis=0)
