"""Lines with bands, and points: what a score, a share or a size does along an axis."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from fibecfed.report.svg import BOTTOM, TOP, Axis, Frame, dashes, element, marker, path_through
from fibecfed.results.palette import Style

_MOST_MARKS = 8


@dataclass(frozen=True)
class Line:
    """Values ``y`` at ``x``, one for one, and a band from ``low`` to ``high`` where there is one.

    ``key`` is what a control of the page shows and hides it by; a value that is not finite is a gap.
    """

    name: str
    key: str
    style: Style
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = field(default=())
    high: Sequence[float] = field(default=())

    def reach(self) -> list[float]:
        """All that must have room on the y axis."""
        return [*self.y, *self.low, *self.high]


def line_picture(
    said: str,
    lines: Sequence[Line],
    x: Axis,
    y: Axis,
    *,
    target: float | None = None,
    warm_up: float | None = None,
    stepped: bool = False,
    marks: int = _MOST_MARKS,
) -> Markup:
    """The lines; ``target`` is a level to reach, and up to ``warm_up`` on the x axis the ground is shaded."""
    frame = Frame(x, y)
    content = []
    if warm_up is not None:
        left, right = frame.at_x(x.low), frame.at_x(min(warm_up, x.high))
        bottom = frame.height - BOTTOM
        content.append(element("rect", x=left, y=TOP, width=max(0.0, right - left), height=bottom - TOP, class_="warm"))
        content.append(element("text", "warm-up", x=left + 4, y=bottom - 6, class_="note"))
    if target is not None and y.low <= target <= y.high:
        place = frame.at_y(target)
        content.append(
            element("line", x1=frame.at_x(x.low), x2=frame.at_x(x.high), y1=place, y2=place, class_="target")
        )
        content.append(element("text", "target", x=frame.at_x(x.high), y=place - 4, text_anchor="end", class_="note"))
    content += [_line(frame, line, stepped, marks) for line in lines]
    return frame.picture(said, *content)


def _line(frame: Frame, line: Line, stepped: bool, marks: int) -> Markup:
    places = [(frame.at_x(a), frame.at_y(b)) if math.isfinite(b) else None for a, b in zip(line.x, line.y, strict=True)]
    drawn = _steps(places) if stepped else places
    parts = []
    if line.low:
        top = [(frame.at_x(a), frame.at_y(b)) for a, b in zip(line.x, line.high, strict=True) if math.isfinite(b)]
        bottom = [(frame.at_x(a), frame.at_y(b)) for a, b in zip(line.x, line.low, strict=True) if math.isfinite(b)]
        if len(top) > 1:
            parts.append(element("path", d=path_through([*top, *reversed(bottom)]) + "z", class_="band"))
    parts.append(element("path", d=path_through(drawn), class_="line", stroke_dasharray=dashes(line.style)))
    step = max(1, math.ceil(len(places) / max(1, marks)))
    chosen = sorted({*range(0, len(places), step), len(places) - 1} if places else set())
    for position in chosen:
        place = places[position]
        if place is not None:
            text = f"{line.name}: {_number(line.y[position])} at {_number(line.x[position])}"
            parts.append(element("path", element("title", text), d=marker(line.style.marker, *place), class_="mark"))
    return element("g", *parts, class_=f"series c{line.style.colour}", data_series=line.key)


def _steps(places: Sequence[tuple[float, float] | None]) -> list[tuple[float, float] | None]:
    """A step around each place, as wide as they are apart."""
    known = [place for place in places if place is not None]
    half = (known[1][0] - known[0][0]) / 2 if len(known) > 1 else 20.0
    return [step for x, y in known for step in ((x - half, y), (x + half, y))]


def _number(value: float) -> str:
    return f"{value:,.4g}"


@dataclass(frozen=True)
class Point:
    """One thing with a name; ``worst`` are drawn apart."""

    name: str
    x: float
    y: float
    worst: bool = False


def point_picture(said: str, points: Sequence[Point], x: Axis, y: Axis) -> Markup:
    """Circles, and diamonds of another colour for the worst, which are drawn last."""
    frame = Frame(x, y)
    content = []
    for point in sorted(points, key=lambda point: point.worst):
        if math.isfinite(point.y):
            text = f"{point.name}: {_number(point.y)} with {_number(point.x)}"
            shape = marker(3 if point.worst else 0, frame.at_x(point.x), frame.at_y(point.y), 4.6)
            look = "dot c1" if point.worst else "dot c0"
            content.append(element("path", element("title", text), d=shape, class_=look))
    return frame.picture(said, *content)
