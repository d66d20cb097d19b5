"""The main chart of a report: the score of methods against rounds, simulated time and bytes, by both protocols."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from markupsafe import Markup

from fibecfed.report.lines import Line, line_picture
from fibecfed.report.page import Cell, Chart, Key, Rows, Table
from fibecfed.report.score import Score, plain
from fibecfed.report.svg import Axis
from fibecfed.results import score_of
from fibecfed.results.palette import Style, style

Curve = Sequence[Mapping[str, Any]]
ByProtocol = Mapping[str, Mapping[str, Sequence[Curve]]]  # protocol, then line, then one curve for each seed
X_AXES = (("round", 1.0), ("simulated time (s)", 1.0), ("sent, up and down (MB)", 1e-6))
_MOST_POINTS, _FEWEST = 6000, 8  # of a page, so that it stays small; of a line
_MOST_MARKS = 2500
_HEADINGS = {
    "global": "global: the server's model on all held-out examples",
    "personalized": "personalized: each device's own model on its own held-out examples",
}


@dataclass(frozen=True)
class _Course:
    """Of one line (E,): where its evaluations stand on each axis, mean and deviation of the score over seeds."""

    x: np.ndarray  # (3, E)
    mean: np.ndarray
    deviation: np.ndarray | None
    seeds: int


def score_chart(
    title: str,
    runs: ByProtocol,
    score: Score,
    *,
    target: float | None = None,
    warm_up: int | None = None,
    charts: int = 1,
) -> Chart:
    """One chart: of several lines a row of pictures for each protocol, of a single one both protocols in one row.

    Curves of one line are averaged point by point over their common first evaluations. ``warm_up``: its rounds, where
    there is one line. ``charts`` are on the page in all; with many lines only some evaluations are drawn.
    """
    names = list(dict.fromkeys(name for lines in runs.values() for name in lines))
    most = max(_FEWEST, _MOST_POINTS // max(1, len(names) * len(runs) * charts))
    courses = {
        protocol: {name: _course(curves, protocol, score, most) for name, curves in lines.items()}
        for protocol, lines in runs.items()
    }
    whole = max(len(curve) for lines in runs.values() for curves in lines.values() for curve in curves)
    looks = {name: style(number) for number, name in enumerate(names)}
    marks = max(1, min(8, _MOST_MARKS // max(1, len(names) * len(runs) * len(X_AXES) * charts)))
    first = next(iter(next(iter(runs.values())).values()))[0]
    ends = _warm_up_ends(first, warm_up) if warm_up else [None] * len(X_AXES)
    y = Axis.over(score.axis, _reach(courses), pad=0.05)
    target = None if target is None else target * score.scale
    rows: list[tuple[str, str | None, Sequence[Markup]]] = []
    if len(names) == 1:
        looked = [Style(number, number, number) for number in range(len(runs))]  # equal lines are both seen
        keys = [Key.of_line(p, look, f"protocol-{p}") for p, look in zip(runs, looked, strict=True)]
        lines = [
            (_line(protocol, f"protocol-{protocol}", looked[number], of[names[0]]), of[names[0]])
            for number, (protocol, of) in enumerate(courses.items())
        ]
        rows.append(("", None, _pictures(title, lines, y, target, ends, marks)))
    else:
        keys = [Key(protocol, Markup(""), f"protocol-{protocol}") for protocol in runs]
        keys += [Key.of_line(name, looks[name], f"line-{number}") for number, name in enumerate(names)]
        for protocol, of in courses.items():
            lines = [
                (_line(name, f"line-{names.index(name)}", looks[name], course), course) for name, course in of.items()
            ]
            pictures = _pictures(f"{title}, {protocol}", lines, y, target, ends, marks)
            rows.append((_HEADINGS.get(protocol, protocol), f"protocol-{protocol}", pictures))
    return Chart(title, rows, _table(title, courses, score), _note(courses, score, whole, most), keys, switches=True)


def _course(curves: Sequence[Curve], protocol: str, score: Score, most: int) -> _Course:
    length = min(map(len, curves))
    chosen = np.unique(np.linspace(0, length - 1, min(length, most)).round().astype(np.int64))
    points = np.array([[_point(curve[i], protocol) for i in chosen] for curve in curves])  # (seeds, E, 4)
    mean = points.mean(axis=0).T
    deviation = points[:, :, 3].std(axis=0, ddof=1) * score.scale if len(curves) > 1 else None
    x = mean[:3] * np.array([[scale] for _, scale in X_AXES])
    return _Course(x, mean[3] * score.scale, deviation, len(curves))


def _point(record: Mapping[str, Any], protocol: str) -> list[float]:
    sent = record["bytes_up"] + record["bytes_down"]
    return [record["round"], record["simulated_seconds"], sent, score_of(record, protocol)]


def _reach(courses: Mapping[str, Mapping[str, _Course]]) -> list[float]:
    found: list[float] = []
    for course in (course for lines in courses.values() for course in lines.values()):
        spread = 0.0 if course.deviation is None else course.deviation
        found += [*(course.mean - spread).tolist(), *(course.mean + spread).tolist()]
    return found


def _line(name: str, key: str, look: Style, course: _Course) -> Line:
    band = course.deviation
    low, high = ((), ()) if band is None else ((course.mean - band).tolist(), (course.mean + band).tolist())
    return Line(name, key, look, course.x[0].tolist(), course.mean.tolist(), low, high)


def _pictures(
    said: str,
    lines: Sequence[tuple[Line, _Course]],
    y: Axis,
    target: float | None,
    ends: Sequence[float | None],
    marks: int,
) -> list[Markup]:
    pictures = []
    for number, (title, _) in enumerate(X_AXES):
        placed = [replace(line, x=course.x[number].tolist()) for line, course in lines]
        x = Axis.over(title, (value for line in placed for value in line.x), zero=True)
        x = replace(x, whole=number == 0)
        named = f"{said}, against {title}"
        pictures.append(line_picture(named, placed, x, y, target=target, warm_up=ends[number], marks=marks))
    return pictures


def _warm_up_ends(curve: Curve, rounds: int) -> list[float | None]:
    """Where the warm-up ends on each axis: at its last round, and at that round's costs where it was evaluated."""
    there = next((record for record in curve if record["round"] == rounds), None)
    if there is None:
        return [float(rounds), None, None]
    return [value * scale for value, (_, scale) in zip(_point(there, "global"), X_AXES, strict=False)]


def _note(courses: Mapping[str, Mapping[str, _Course]], score: Score, whole: int, most: int) -> str:
    said = [f"{score.metric.capitalize()}: {score.better}."]
    seeds = max(course.seeds for lines in courses.values() for course in lines.values())
    if seeds > 1:
        said.append("Lines are means over seeds, bands one standard deviation up and down.")
    if whole > most:
        said.append(f"Of {whole} evaluations {most} are drawn, at equal steps.")
    return " ".join(said)


def _table(title: str, courses: Mapping[str, Mapping[str, _Course]], score: Score) -> Table:
    spread = any(course.deviation is not None for lines in courses.values() for course in lines.values())
    rows: Rows = []
    for protocol, lines in courses.items():
        for name, course in lines.items():
            for point in range(course.mean.shape[0]):
                numbers = [f"{course.x[axis, point]:,.4g}" for axis in range(len(X_AXES))]
                numbers.append(plain(course.mean[point]))
                if spread:
                    numbers.append("-" if course.deviation is None else plain(course.deviation[point]))
                rows.append([name, protocol, *[Cell(text, text.replace(",", "")) for text in numbers]])
    columns = ["method", "protocol", *(axis for axis, _ in X_AXES), score.axis, *["standard deviation"] * spread]
    return Table(title, columns, rows, text_columns=frozenset({0, 1}))
