"""The picture of a run: score by round, by bytes and by simulated time."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from fibecfed.results.palette import COLOURS
from fibecfed.results.summary import metric_of, score_of, sign_of


def curves_png(records: Sequence[Mapping[str, Any]], title: str, warm_up: int = 0) -> bytes:
    """A PNG of both protocols' score against rounds, megabytes and simulated seconds; the warm-up is shaded."""
    axes_of = (
        ("round", [r["round"] for r in records]),
        ("sent, up and down (MB)", [(r["bytes_up"] + r["bytes_down"]) / 1e6 for r in records]),
        ("simulated time (s)", [r["simulated_seconds"] for r in records]),
    )
    from matplotlib.figure import Figure  # slow to import
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    panels = figure.subplots(1, len(axes_of), sharey=True)
    ends = [r["round"] for r in records].index(warm_up) if warm_up in [r["round"] for r in records] else None
    share = sign_of(records) > 0
    scale = 100.0 if share else 1.0
    for number, (axes, (name, values)) in enumerate(zip(panels, axes_of, strict=True)):
        for protocol, colour, marker, dashes in (("global", 0, "o", "-"), ("personalized", 1, "s", "--")):
            scores = [scale * score_of(r, protocol) for r in records]
            axes.plot(values, scores, marker=marker, markersize=4, ls=dashes, color=COLOURS[colour], label=protocol)
        end = warm_up if number == 0 else values[ends] if ends is not None else 0
        if warm_up and end:
            axes.axvspan(0, end, color="black", alpha=0.07, lw=0, label="warm-up")
        axes.set_xlim(left=0)
        axes.set_xlabel(name)
        axes.grid(alpha=0.3)
    panels[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[0].set_ylabel(f"{metric_of(records)} ({'%, higher' if share else 'nats a token, lower'} is better)")
    panels[0].legend(fontsize=8)
    last = [score_of(records[-1], protocol) * scale for protocol in ("global", "personalized")]
    shown = [f"{value:.1f} %" if share else f"{value:.3f}" for value in last]
    whole = f"{title}: {metric_of(records)} ends at {shown[0]} global, {shown[1]} personalized"
    figure.suptitle(whole, fontsize=10).set_parse_math(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()
