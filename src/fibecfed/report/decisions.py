"""What a method decided: layers and their scores, how hard examples are, how the curriculum grew."""

from collections.abc import Mapping
from typing import Any

from fibecfed.report.areas import grid_picture, histogram_picture
from fibecfed.report.holdings import device_name
from fibecfed.report.lines import Line, line_picture
from fibecfed.report.page import Cell, Chart, Key, Rows, Table
from fibecfed.report.score import plain
from fibecfed.report.svg import Axis, two_digits
from fibecfed.results.palette import style

_MOST_ROWS = 40


def layers_chart(decided: Mapping[str, Any], held: Mapping[str, Any]) -> Chart | None:
    """Layer scores by device, with those of all devices first and the chosen layers framed."""
    scores = decided.get("layer_scores")
    if not scores:
        return None
    told = decided.get("layer_scores_by_device") or {}
    devices = sorted(told, key=int)
    chosen = list(decided.get("layers") or ())
    drawn = devices[:_MOST_ROWS]
    rows = ["all devices", *(device_name(held, int(k)) for k in drawn)]
    values = [scores, *(told[k] for k in drawn)]
    columns = [str(layer) for layer in range(len(scores))]
    which = ", ".join(map(str, chosen)) or "none"
    title = f"Layer scores: layers {which} are aggregated, {decided.get('count_reason') or 'as the settings say'}"
    note = "A stronger colour is a higher score within its row; frames and dots mark the layers that devices share."
    if len(drawn) < len(devices):
        note += f" {len(drawn)} of {len(devices)} devices are drawn."
    picture = grid_picture(title, rows, columns, values, chosen, ("layer", "device"))
    data: Rows = [
        [name, *[Cell(plain(value), value, "best" if layer in chosen else "") for layer, value in enumerate(line)]]
        for name, line in zip(
            ["all devices", *(device_name(held, int(k)) for k in devices)], [scores, *(told[k] for k in devices)],
            strict=True,
        )
    ]  # fmt: skip
    table = Table("Layer scores", ["device", *(f"layer {name}" for name in columns)], data, ["★: a chosen layer."])
    return Chart(title, [("", None, [picture])], table, note)


def difficulty_chart(decided: Mapping[str, Any]) -> Chart | None:
    """How hard the examples are, and how many there are of each difficulty."""
    found = decided.get("difficulty") or {}
    histogram = found.get("histogram")
    if not histogram or not histogram["counts"]:
        return None
    edges, counts = histogram["edges"], histogram["counts"]
    total = found.get("examples", sum(counts))
    title = f"Difficulty of {total:,} examples: most lie between {_middle(edges, counts)}"
    note = ""
    if found.get("group_share") is not None:
        by_chance = found.get("group_share_by_chance")
        note = f"The group explains {found['group_share']:.0%} of the variance of the ranks within devices"
        note += "." if by_chance is None else f" ({by_chance:.0%} by chance)."
    rows = [
        [Cell(f"{low:.4g}", low), Cell(f"{high:.4g}", high), Cell(f"{count:,}", count)]
        for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
    ]
    table = Table("Examples by difficulty", ["from", "to", "examples"], rows, text_columns=frozenset())
    picture = histogram_picture(title, edges, counts, "difficulty score (no unit; larger is harder)", "examples")
    return Chart(title, [("", None, [picture])], table, note)


def _middle(edges: list[float], counts: list[float]) -> str:
    """The bins in which the middle half of the examples lies."""
    total, seen, low, high = sum(counts), 0.0, edges[0], edges[-1]
    for left, right, count in zip(edges[:-1], edges[1:], counts, strict=True):
        before, seen = seen, seen + count
        if before < total / 4 <= seen:
            low = left
        if before < 3 * total / 4 <= seen:
            high = right
    return f"{two_digits(low)} and {two_digits(high)}"


def curriculum_chart(decided: Mapping[str, Any]) -> Chart | None:
    """The part of the examples in use in each round."""
    prefix = decided.get("prefix")
    if not prefix:
        return None
    rounds = [float(number) for number in range(1, len(prefix) + 1)]
    shares = [100.0 * part for part in prefix]
    warm_up = decided.get("warm_up_rounds") or None
    first = shares[min(warm_up or 0, len(shares) - 1)]
    whole = all(part == 100 for part in shares)
    title = (
        "Curriculum: all examples are in use in every round"
        if whole
        else f"Curriculum: from {first:.0f} % of the examples, the easiest first, to {shares[-1]:.0f} %"
    )
    x = Axis("round", 0.5, len(prefix) + 0.5, whole=True)
    line = Line("in use", "in-use", style(0), rounds, shares)
    y = Axis("examples in use (%)", 0.0, 105.0)
    picture = line_picture(title, [line], x, y, warm_up=warm_up + 0.5 if warm_up else None, stepped=True)
    rows = [[Cell(f"{r:.0f}", r), Cell(f"{share:.1f}", share)] for r, share in zip(rounds, shares, strict=True)]
    table = Table("Part of the examples in use", ["round", "in use (%)"], rows, text_columns=frozenset())
    caps = decided.get("caps")
    note = "" if not caps else f"Devices left out what they doubted: each used {_range(caps.values())} at most."
    return Chart(title, [("", None, [picture])], table, note, [Key.of_line("examples in use", style(0), None)])


def _range(values: Any) -> str:
    shares = [100 * value for value in values]
    return f"{min(shares):.0f} to {max(shares):.0f} %"
