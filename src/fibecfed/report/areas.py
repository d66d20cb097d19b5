"""Bars, histograms and grids of squares: how much of what there is, and where."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from fibecfed.report.svg import BOTTOM, LEFT, RIGHT, TOP, WIDTH, Axis, Frame, element, picture
from fibecfed.results.palette import hatched

_BAR, _GAP = 13, 5
_LETTER = 6.2  # about the width of a character
_MOST_LETTERS = 22


def shortened(name: str, most: int = _MOST_LETTERS) -> str:
    """A name that fits beside a picture."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def area(number: int) -> dict[str, str]:
    """The class and, over it, the hatching of the area of this number."""
    colour, hatch = hatched(number)
    return {"class_": f"area c{colour} h{hatch}"}


@dataclass(frozen=True)
class Bar:
    """One bar: its name, and its parts, each with the number by which it is coloured, a size and its name."""

    name: str
    parts: Sequence[tuple[int, float, str]]


def bar_picture(said: str, bars: Sequence[Bar], title: str, *, width: float = WIDTH, whole: bool = False) -> Markup:
    """Bars that lie, one under another, each made of its parts; ``title`` is of the axis, with its unit."""
    names = [shortened(bar.name) for bar in bars]
    left = 14 + _LETTER * max((len(name) for name in names), default=0)
    longest = max((sum(max(0.0, size) for _, size, _ in bar.parts) for bar in bars), default=1.0) or 1.0
    axis = Axis(title, 0.0, longest * 1.02, whole=whole)
    bottom = TOP + len(bars) * (_BAR + _GAP) + 2
    parts = []
    for value, text in axis.ticks():
        place = left + axis.part(value) * (width - left - RIGHT)
        parts.append(element("line", x1=place, x2=place, y1=TOP - 4, y2=bottom, class_="grid"))
        parts.append(element("text", text, x=place, y=bottom + 16, text_anchor="middle"))
    for row, (bar, name) in enumerate(zip(bars, names, strict=True)):
        top, place = TOP + row * (_BAR + _GAP), left
        shown = element("text", element("title", bar.name), name, x=left - 6, y=top + 10.5, text_anchor="end")
        parts.append(shown)
        for number, size, what in bar.parts:
            long = axis.part(max(0.0, size)) * (width - left - RIGHT)
            if long > 0:
                text = element("title", f"{bar.name}: {what} {size:,.4g}")
                where = {"x": place, "y": top, "width": long, "height": _BAR}
                parts.append(element("rect", text, **where, **area(number)))
                hatch = hatched(number)[1]
                if hatch:
                    parts.append(element("rect", **where, fill=f"url(#hatch{hatch})", pointer_events="none"))
            place += long
    middle = (left + width - RIGHT) / 2
    parts.append(element("text", title, x=middle, y=bottom + 34, text_anchor="middle", class_="axis"))
    return picture(said, width, bottom + 42, *parts)


def histogram_picture(said: str, edges: Sequence[float], counts: Sequence[float], x_title: str, y_title: str) -> Markup:
    """Counts between edges; the x axis is logarithmic where all edges are above 0."""
    log = min(edges) > 0
    frame = Frame(Axis(x_title, min(edges), max(edges), log), Axis(y_title, 0.0, 1.05 * max(*counts, 1), whole=True))
    bars = []
    for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True):
        left, right, top = frame.at_x(low), frame.at_x(high), frame.at_y(count)
        text = element("title", f"{low:.3g} to {high:.3g}: {count:,g}")
        height = frame.height - BOTTOM - top
        bars.append(
            element("rect", text, x=left, y=top, width=max(0.5, right - left - 0.6), height=height, class_="area c0")
        )
    return frame.picture(said, *bars)


def grid_picture(
    said: str,
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float]],
    marked: Sequence[int],
    titles: tuple[str, str],
) -> Markup:
    """Squares, darker for larger values of their row, from the row's least to its largest.

    ``marked`` columns have a frame and a dot; ``titles`` are of the columns' axis and of the rows.
    """
    names = [shortened(name) for name in rows]
    left = max(LEFT, 46 + _LETTER * max((len(name) for name in names), default=0))
    side = min(34.0, (WIDTH - left - RIGHT) / max(1, len(columns)))
    height = 18.0
    bottom = TOP + 12 + height * len(rows)
    parts = []
    for row, (name, line) in enumerate(zip(names, values, strict=True)):
        top = TOP + 12 + row * height
        parts.append(element("text", element("title", rows[row]), name, x=left - 6, y=top + 13, text_anchor="end"))
        finite = [value for value in line if math.isfinite(value)]
        low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
        for column, value in enumerate(line):
            share = (value - low) / (high - low) if math.isfinite(value) and high > low else 0.0
            text = element("title", f"{rows[row]}, layer {columns[column]}: {value:.4g}")
            where = {"x": left + column * side, "y": top, "width": side - 1.5, "height": height - 1.5}
            parts.append(element("rect", text, **where, class_="cell", fill_opacity=0.06 + 0.94 * share))
    every = max(1, math.ceil(len(columns) * 14 / (WIDTH - left - RIGHT)))
    for column, name in enumerate(columns):
        middle = left + (column + 0.5) * side - 0.75
        if column % every == 0:
            parts.append(element("text", name, x=middle, y=bottom + 14, text_anchor="middle"))
        if column in marked:
            parts.append(
                element(
                    "rect", x=left + column * side - 0.5, y=TOP + 11, width=side - 0.5, height=height * len(rows) + 0.5,
                    class_="frame",
                )
            )  # fmt: skip
            parts.append(element("text", "●", x=middle, y=TOP + 7, text_anchor="middle", class_="chosen"))
    end = left + side * len(columns)
    parts.append(element("text", titles[0], x=(left + end) / 2, y=bottom + 32, text_anchor="middle", class_="axis"))
    turn = f"rotate(-90 12 {(TOP + bottom) / 2:.0f})"
    parts.append(
        element("text", titles[1], x=12, y=(TOP + bottom) / 2, text_anchor="middle", class_="axis", transform=turn)
    )
    return picture(said, WIDTH, bottom + 40, *parts)


def mixture(counts: Sequence[float], said: str) -> Markup:
    """A bar of one line of text, for a table's cell: what the whole is made of, which ``said`` tells."""
    total, place, parts = sum(counts) or 1.0, 0.0, []
    for number, count in enumerate(counts):
        if count > 0:
            where = {"x": place, "y": 0, "width": 100 * count / total, "height": 10}
            parts.append(element("rect", **where, **area(number)))
            hatch = hatched(number)[1]
            if hatch:
                parts.append(element("rect", **where, fill=f"url(#hatch{hatch})"))
            place += 100 * count / total
    return element(
        "svg", element("title", said), *parts, viewBox="0 0 100 10", class_="mixture", preserveAspectRatio="none",
        role="img",
    )  # fmt: skip
