"""The picture of what a method decided: layers, difficulty, how the curriculum grew."""

import io
from collections.abc import Mapping
from typing import Any

from fibecfed.results.palette import COLOURS


def decisions_png(decisions: Mapping[str, Any]) -> bytes:
    """A PNG of the layer scores (shared layers filled), the difficulty histogram, and the prefix by round."""
    from matplotlib.figure import Figure  # slow to import
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    layers, difficulty, prefix = figure.subplots(1, 3)
    scores = decisions.get("layer_scores")
    shared = set(decisions["layers"] or ())
    if scores:
        bars = layers.bar(range(len(scores)), scores, edgecolor=COLOURS[0], linewidth=1.5)
        for layer, bar in enumerate(bars):
            bar.set_facecolor(COLOURS[0] if layer in shared else "white")
        layers.xaxis.set_major_locator(MaxNLocator(integer=True))
    else:
        _says(layers, "chosen without scores")
    layers.set(xlabel="layer (filled: aggregated)", ylabel="score (no unit)", title=_layers(shared))
    histogram = (decisions.get("difficulty") or {}).get("histogram")
    if histogram and histogram["counts"]:
        difficulty.stairs(histogram["counts"], histogram["edges"], fill=True, color=COLOURS[0])
        difficulty.set_xscale("log")
    else:
        _says(difficulty, "no scores")
    difficulty.set(xlabel="difficulty (no unit, larger is harder)", ylabel="examples", title="How hard examples are")
    difficulty.yaxis.set_major_locator(MaxNLocator(integer=True))
    used = [100 * part for part in decisions["prefix"]]
    prefix.step(range(1, len(used) + 1), used, where="mid", color=COLOURS[0], label="in use")
    warm_up = decisions.get("warm_up_rounds") or 0
    if warm_up:
        prefix.axvspan(0.5, warm_up + 0.5, color="black", alpha=0.07, lw=0, label="warm-up")
        prefix.legend(fontsize=8, loc="lower right")
    prefix.set(xlabel="round", ylabel="examples in use (%)", ylim=(0, 105), title="How the curriculum grows")
    prefix.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (layers, difficulty, prefix):
        axes.title.set_fontsize(10)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


def _layers(shared: set[int]) -> str:
    """What was chosen, if that fits."""
    named = ", ".join(map(str, sorted(shared)))
    return f"Aggregated layers: {named}" if shared and len(named) <= 24 else f"{len(shared)} layers are aggregated"


def _says(axes: Any, text: str) -> None:
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes, color="grey")
