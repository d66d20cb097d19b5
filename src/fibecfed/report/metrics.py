"""The metrics beside the score, round by round: training loss, evaluation loss, perplexity, scores of answers."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from fibecfed.report.lines import Line, line_picture
from fibecfed.report.page import Cell, Chart, Key, Rows, Table
from fibecfed.report.score import plain
from fibecfed.report.svg import Axis
from fibecfed.results.palette import Style

_UNITS = {"loss": "nats", "perplexity": "per token", "loss_train": "nats"}
_LINES = ("global", "personalized", "training")
_LOOKS = tuple(Style(number, number, number) for number in range(len(_LINES)))  # equal lines are all seen


def metrics_chart(records: Sequence[Mapping[str, Any]], main: str, warm_up: int | None) -> Chart | None:
    """A picture for each metric that is not the score, with training's loss beside the loss."""
    names = [
        key.removesuffix("_global")
        for key in records[-1]
        if key.endswith("_global") and not key.startswith((f"{main}_", "metric_"))
    ]
    names = names if "loss" in (*names, main) else [*names, "loss"]
    names = [*names, "loss"] if main == "loss" else names
    pictures: list[Markup] = []
    table: Rows = []
    for name in dict.fromkeys(names):
        lines = []
        for number, (line, key) in enumerate(
            zip(_LINES, (f"{name}_global", f"{name}_personalized", f"{name}_train"), strict=True)
        ):
            points = [(float(r["round"]), float(r[key])) for r in records if r.get(key) is not None]
            if points:
                x, y = [point[0] for point in points], [point[1] for point in points]
                lines.append(Line(line, line, _LOOKS[number], x, y))
                table += [[line, name, Cell(f"{a:.0f}", a), Cell(plain(b), b)] for a, b in points]
        if lines:
            x_axis = Axis.over("round", (value for line in lines for value in line.x), zero=True)
            x_axis = Axis(x_axis.title, x_axis.low, x_axis.high, whole=True)
            unit = _UNITS.get(name, "0 to 1")
            values = [value for line in lines for value in line.y]
            y_axis = Axis.over(f"{name.replace('_', ' ')} ({unit})", values, zero=not any(values), pad=0.05)
            said = f"{name.replace('_', ' ')} by round"
            pictures.append(line_picture(said, lines, x_axis, y_axis, warm_up=float(warm_up) if warm_up else None))
    if not pictures:
        return None
    rounds = f"round {records[0]['round']} to round {records[-1]['round']}"
    title = f"Beside the score: {', '.join(name.replace('_', ' ') for name in dict.fromkeys(names))}, {rounds}"
    shown = {row[0] for row in table}
    keys = [Key.of_line(line, _LOOKS[number], line) for number, line in enumerate(_LINES) if line in shown]
    data = Table(title, ["line", "metric", "round", "value"], table, text_columns=frozenset({0, 1}))
    return Chart(title, [("", None, pictures)], data, keys=keys, switches=True)
