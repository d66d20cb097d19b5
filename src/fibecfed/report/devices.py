"""How well the models do on each device, and what they take for what."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fibecfed.report.holdings import counts_of, device_name, few_groups, mixture_cell
from fibecfed.report.lines import Point, point_picture
from fibecfed.report.page import Cell, Chart, Rows, Table
from fibecfed.report.score import Score
from fibecfed.report.svg import Axis
from fibecfed.results.palette import MOST_AREAS, largest

_MOST_ROWS, _MOST_OPEN = 1000, 40
_MOST_MISTAKES = 20


def devices_chart(
    evaluation: Mapping[str, Any], held: Mapping[str, Any], names: Sequence[str], group: str
) -> Chart | None:
    """Each device's own model on its own held-out examples against its size; the worst tenth are marked."""
    found = {int(device): on for device, on in evaluation["devices"].items()}
    if not found:
        return None
    score = Score(evaluation["metric"], -1 if evaluation["lower_is_better"] else 1)
    counts = counts_of(held)
    sizes = None if counts is None else counts.sum(axis=1)
    count = max(1, math.ceil(len(found) / 10))
    order = sorted(found, key=lambda k: score.sign * found[k]["personalized"])
    worst = set(order[:count])
    points = [
        Point(
            device_name(held, k),
            float(sizes[k]) if sizes is not None else float(found[k]["examples"]),
            found[k]["personalized"] * score.scale,
            k in worst,
        )
        for k in found
    ]
    what = "training examples" if sizes is not None else "held-out examples"
    x = Axis.over(f"{what} of the device", (point.x for point in points), zero=True, pad=0.04)
    y = Axis.over(f"{score.axis}, own model", (point.y for point in points), pad=0.08)
    low, high = (score.text(f(on["personalized"] for on in found.values())) for f in (min, max))
    title = f"Each device: its own model reaches {low} to {high} on its own examples"
    note = (
        f"Diamonds, and ▼ in the table: the worst tenth, {count} of {len(found):,} devices with held-out examples. "
        "With few examples a score says little."
    )
    table = _table(found, worst, held, counts, names, group, score, order)
    return Chart(
        title,
        [("", None, [point_picture(title, points, x, y)])],
        table,
        note,
        wide=True,
        unfolded=len(found) <= _MOST_OPEN,
    )


def _table(
    found: Mapping[int, Mapping[str, Any]],
    worst: set[int],
    held: Mapping[str, Any],
    counts: np.ndarray | None,
    names: Sequence[str],
    group: str,
    score: Score,
    order: Sequence[int],
) -> Table:
    """The devices, the worst first where there are too many to list, else as they are numbered."""
    listed = sorted(order[:_MOST_ROWS]) if len(order) <= _MOST_ROWS else order[:_MOST_ROWS]
    several = counts is not None and counts.shape[1] > 1
    shown, areas = few_groups(counts, names) if several and counts is not None else (None, [])
    columns = ["device", "training examples", "held-out examples", f"own model, {score.axis}", f"global, {score.axis}"]
    rows: Rows = []
    for k in listed:
        on = found[k]
        size = None if counts is None else int(counts[k].sum())
        row: list[Cell | str] = [
            Cell(device_name(held, k), k),
            Cell("-" if size is None else f"{size:,}", size),
            Cell(f"{on['examples']:,}", on["examples"]),
            Cell(score.number(on["personalized"]), on["personalized"], "worst" if k in worst else ""),
            Cell(score.number(on["global"]), on["global"]),
        ]
        if shown is not None:
            row.append(mixture_cell(shown[k].tolist(), areas))
        rows.append(row)
    notes = [f"The worst {_MOST_ROWS:,} of {len(order):,} devices."] if len(order) > _MOST_ROWS else []
    return Table("Scores of the devices", [*columns, *[f"{group} mix"] * several], rows, notes)


def answers_tables(evaluation: Mapping[str, Any], names: Sequence[str], group: str) -> list[Table]:
    """What was taken for what, by protocol, and the mistakes that were made most."""
    found = {protocol: np.asarray(counts) for protocol, counts in (evaluation.get("answers") or {}).items()}
    if len(found) == 2 and len({counts.tobytes() for counts in found.values()}) == 1:
        found = {"global and personalized": next(iter(found.values()))}
    tables = []
    for protocol, counts in found.items():
        if not counts.sum():
            continue
        square, shown = _few(counts, names)
        totals = square.sum(axis=1)
        rows: Rows = []
        for row, name in enumerate(shown):
            cells = [
                Cell(f"{n:,}" if n else "·", n, "right" if row == column else "", n / max(1, totals[row]))
                for column, n in enumerate(square[row].tolist())
            ]
            found_part = square[row, row] / totals[row] if totals[row] else None
            share = Cell("-" if found_part is None else f"{100 * found_part:.0f} %", found_part)
            rows.append([name, *cells, Cell(f"{totals[row]:,}", int(totals[row])), share])
        caption = f"What was taken for what, {protocol}: rows are the true {group}, columns the answer"
        columns = [f"{group} ↓ taken for →", *shown, "all", "found"]
        notes = ["The frames hold the right answers; the ground shows the share of the row."]
        tables.append(Table(caption, columns, rows, notes))
        tables += _mistakes(protocol, counts, names, group)
    return tables


def _few(counts: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """At most twenty rows and columns: the largest groups, and all others together."""
    if len(counts) <= MOST_AREAS:
        return counts, list(names)
    kept, others = largest(counts.sum(axis=1))
    half = np.vstack([counts[kept], counts[others].sum(axis=0)])
    whole = np.column_stack([half[:, kept], half[:, others].sum(axis=1)])
    return whole, [*(names[g] for g in kept), f"{len(others)} others"]


def _mistakes(protocol: str, counts: np.ndarray, names: Sequence[str], group: str) -> list[Table]:
    """Only where the square has more groups than it can show."""
    if len(counts) <= MOST_AREAS:
        return []
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    pairs = np.argsort(-wrong, axis=None, kind="stable")[:_MOST_MISTAKES]
    rows: Rows = []
    for pair in pairs.tolist():
        row, column = divmod(pair, len(counts))
        if wrong[row, column]:
            rows.append([names[row], names[column], Cell(f"{wrong[row, column]:,}", int(wrong[row, column]))])
    columns = [f"true {group}", "taken for", "examples"]
    return [Table(f"The most frequent mistakes, {protocol}", columns, rows, text_columns=frozenset({0, 1}))]
