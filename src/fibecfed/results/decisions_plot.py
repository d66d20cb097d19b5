"""The picture of what a method decided: layers, difficulty, how the curriculum grew."""

import io
from collections.abc import Mapping
from typing import Any


def decisions_png(decisions: Mapping[str, Any]) -> bytes:
    """A PNG of the layer scores (shared layers filled), the difficulty histogram, and the prefix by round."""
    from matplotlib.figure import Figure  # slow to import

    figure = Figure(figsize=(11, 3.2), layout="constrained")
    layers, difficulty, prefix = figure.subplots(1, 3)
    scores = decisions.get("layer_scores")
    if scores:
        shared = set(decisions["layers"] or ())
        bars = layers.bar(range(len(scores)), scores, edgecolor="tab:blue")
        for layer, bar in enumerate(bars):
            bar.set_facecolor("tab:blue" if layer in shared else "white")
    layers.set(xlabel="layer (filled: aggregated)", ylabel="score")
    histogram = (decisions.get("difficulty") or {}).get("histogram")
    if histogram and histogram["counts"]:
        difficulty.stairs(histogram["counts"], histogram["edges"], fill=True)
        difficulty.set_xscale("log")
    difficulty.set(xlabel="difficulty", ylabel="examples")
    rounds = range(1, len(decisions["prefix"]) + 1)
    prefix.step(rounds, decisions["prefix"], where="mid")
    prefix.set(xlabel="round", ylabel="part of the data used", ylim=(0, 1.05))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()
