"""The tables of a search's log: every variant against a reference, paired by seed."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from fibecfed.comparison.judged import Judged
from fibecfed.comparison.statistics import Interval, paired_interval, ratio, spread
from fibecfed.comparison.tables import Cell, Column, ReportTable
from fibecfed.results import PROTOCOLS

Line = Mapping[str, Any]
Runs = dict[int, Line]  # by seed
_UNITS = {
    1: "Percent, means over seeds; differences in points",
    -1: "Nats a token, means over seeds, lower is better; differences",
}
_SCORES = (*PROTOCOLS, "worst tenth")


def log_tables(lines: Sequence[Line], reference: str) -> list[ReportTable]:
    """Scores with differences to the reference, and costs with those to the reference's own final score."""
    cells: dict[tuple[str, str, str, str], dict[str, Runs]] = {}
    for line in lines:
        where = (line["data_set"], line["partition"], line["split"], line["variant"])
        by_protocol = cells.setdefault(where, {protocol: {} for protocol in PROTOCOLS})
        for protocol in line["chosen_by"]:
            by_protocol[protocol][line["seed"]] = line
    judged = Judged.of(lines[:1])
    return [
        _scores(cells, reference, judged, _made(lines)),
        _over_settings(cells, reference, judged),
        _costs(cells, reference),
    ]


def _made(lines: Sequence[Line]) -> list[str]:
    commits = sorted({str(line["git_commit"]) for line in lines})
    versions = sorted({", ".join(f"{k} {v}" for k, v in line["versions"].items()) for line in lines})
    machines = sorted({f"{m['processor']}, {m['cores']} cores" for m in (line["hardware"] for line in lines)})
    return [f"Commits: {', '.join(commits)}.", f"Made with {'; '.join(versions)}; on {'; '.join(machines)}."]


def _score(line: Line, name: str) -> float:
    return float(line["worst_tenth"] if name == "worst tenth" else line["final"][name])


def _runs(by_protocol: Mapping[str, Runs], name: str) -> Runs:
    return by_protocol["personalized" if name == "worst tenth" else name]


def _differences(mine: Mapping[str, Runs], others: Mapping[str, Runs], name: str) -> list[float]:
    one, other = _runs(mine, name), _runs(others, name)
    return [_score(one[seed], name) - _score(other[seed], name) for seed in sorted(one.keys() & other.keys())]


def _scores(cells: Mapping[Any, Mapping[str, Runs]], reference: str, judged: Judged, notes: list[str]) -> ReportTable:
    rows: list[tuple[Cell, ...]] = []
    for (data_set, partition, split, variant), mine in cells.items():
        others = cells.get((data_set, partition, split, reference))
        row: list[Cell] = [data_set, partition, split, variant, len(mine["global"])]
        for name in _SCORES:
            values = [_score(line, name) for line in _runs(mine, name).values()]
            gains = _differences(mine, others, name) if others is not None and variant != reference else []
            row += [spread(values).mean if values else None, paired_interval(gains) if gains else None]
        rows.append(tuple(row))
    columns = [Column("data set"), Column("partition"), Column("split"), Column("variant"), Column("seeds")]
    for name in _SCORES:
        columns += [judged.column(name), judged.column(f"{name} - {reference}", signed=True)]
    return ReportTable(
        "scores", "Scores", columns, rows,
        [
            f"{_UNITS[judged.sign]} with 95 % intervals (Student's t), paired by seed.",
            "A final number is the mean of a run's last evaluations (a quarter, at most five); of a run that ends with "
            "a judged stage, that stage's alone.",
            *notes,
        ],
    )  # fmt: skip


def _over_settings(cells: Mapping[Any, Mapping[str, Runs]], reference: str, judged: Judged) -> ReportTable:
    """Differences of each variant over all settings that it shares with the reference."""
    found: dict[tuple[str, str], dict[str, list[float]]] = {}
    settings: dict[tuple[str, str], int] = {}
    for (data_set, partition, split, variant), mine in cells.items():
        others = cells.get((data_set, partition, split, reference))
        if variant == reference or others is None:
            continue
        settings[split, variant] = settings.get((split, variant), 0) + 1
        into = found.setdefault((split, variant), {name: [] for name in _SCORES})
        for name in _SCORES:
            into[name] += _differences(mine, others, name)
    rows: list[tuple[Cell, ...]] = []
    for (split, variant), by_name in found.items():
        gains: list[Interval | None] = [paired_interval(d) if d else None for d in by_name.values()]
        rows.append((split, variant, settings[split, variant], *gains))
    columns = [
        Column("split"),
        Column("variant"),
        Column("settings"),
        *(judged.column(n, signed=True) for n in _SCORES),
    ]
    points = "Points" if judged.sign > 0 else "Nats a token (negative is better)"
    note = f"{points} above {reference}; 95 % intervals over seeds and settings, paired."
    return ReportTable("over-settings", "Over all settings", columns, rows, [note])


def _costs(cells: Mapping[Any, Mapping[str, Runs]], reference: str) -> ReportTable:
    rows: list[tuple[Cell, ...]] = []
    for (data_set, partition, split, variant), mine in cells.items():
        runs = list(mine["global"].values())
        if not runs:
            continue
        traffic = spread([line["bytes_up"] + line["bytes_down"] for line in runs]).mean
        row: list[Cell] = [data_set, partition, split, variant, traffic]
        row += [spread([line[name] for line in runs]).mean for name in ("operations", "simulated_seconds")]
        for protocol in PROTOCOLS:
            targets = [line["to_target"][protocol] for line in mine[protocol].values() if line["to_target"]]
            reached = [target for target in targets if target["spent"] is not None]
            row.append(f"{len(reached)} of {len(targets)}")
            for cost in ("simulated_seconds", "bytes"):
                row.append(_median_ratio(reached, cost))
        rows.append(tuple(row))
    columns = [
        Column("data set"), Column("partition"), Column("split"), Column("variant"),
        Column("MB", 1, 1e-6, plain_name="bytes"), Column("GFLOP", 1, 1e-9, plain_name="operations"),
        Column("simulated s", 1),
    ]  # fmt: skip
    for protocol in PROTOCOLS:
        columns += [Column(f"{protocol}: reached"), Column("time ÷", 2), Column("bytes ÷", 2)]
    note = (
        f"Costs of whole runs, means over seeds. The target of each seed is the final score of {reference}, by each "
        "protocol; reached: the mean of three consecutive evaluations, or a judged stage at the end. ÷: the median "
        f"over the seeds that reach it of the cost to it, against that of {reference} with this seed "
        "(its whole run, where it does not reach its own final score by that rule)."
    )
    return ReportTable("costs", f"Costs, and those to the final score of {reference}", columns, rows, [note])


def _median_ratio(reached: Sequence[Mapping[str, Any]], cost: str) -> float | None:
    ratios = [ratio(r["spent"][cost], r["reference_spent"][cost]) for r in reached]
    known = [value for value in ratios if value is not None]
    return median(known) if known else None
