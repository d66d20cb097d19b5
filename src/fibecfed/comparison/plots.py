"""The picture of a setting: every method's score against rounds, simulated time and bytes."""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fibecfed.report import X_AXES
from fibecfed.results import metric_of, score_of, sign_of
from fibecfed.results.palette import COLOURS, DASHES, MARKERS, style

Curve = Sequence[Mapping[str, Any]]
_IN_A_LINE = 7  # names of the legend
_MARKED = 8  # points of a line, about


def comparison_png(curves: Mapping[str, Sequence[Curve]], title: str, target: float | None) -> bytes:
    """A PNG of the global score. ``curves`` holds each method's runs, which are averaged point by point over seeds.

    Runs of one method that were not evaluated equally often are averaged over their common first evaluations.
    """
    first = next(iter(curves.values()))[0]
    share = sign_of(first) > 0
    to_eye = 100.0 if share else 1.0
    lines = math.ceil(len(curves) / _IN_A_LINE)
    figure = Figure(figsize=(12, 4.2 + 0.2 * lines), layout="constrained")
    panels = figure.subplots(1, len(X_AXES), sharey=True)
    for number, (name, runs) in enumerate(curves.items()):
        points, look = _mean_points(runs), style(number)  # (evaluations, 4)
        drawn = {
            "color": COLOURS[look.colour],
            "ls": (0, DASHES[look.dash]) if DASHES[look.dash] else "-",
            "marker": MARKERS[look.marker],
            "markersize": 4,
            "markevery": max(1, len(points) // _MARKED),
            "linewidth": 1.3,
        }
        for axes, (_, scale), values in zip(panels, X_AXES, points.T[:3], strict=True):
            axes.plot(values * scale, points[:, 3] * to_eye, **drawn)
        panels[0].lines[-1].set_label(name.lstrip("_") or name)  # a name with "_" in front would not be in the legend
    for axes, (named, _) in zip(panels, X_AXES, strict=True):
        axes.set_xlabel(named)
        axes.grid(alpha=0.3)
        if target is not None:
            axes.axhline(target * to_eye, color="black", linewidth=0.8, linestyle=":")
    panels[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[0].set_ylabel(f"{metric_of(first)}, global ({'%' if share else 'nats a token, lower is better'})")
    handles, names = panels[0].get_legend_handles_labels()
    columns = min(_IN_A_LINE, len(curves))
    legend = figure.legend(handles, names, loc="outside lower center", ncols=columns, fontsize=8, handlelength=3.5)
    dotted = "" if target is None else "; dotted: the target"
    heading = figure.suptitle(
        f"{title}: {metric_of(first)} of the server's model, means over seeds{dotted}", fontsize=10
    )
    for text in (heading, *legend.get_texts()):
        text.set_parse_math(False)
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
