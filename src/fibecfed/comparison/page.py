"""The report of a comparison that is looked at, from the same records as its tables."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from fibecfed.commands import command_line
from fibecfed.comparison.findings import Findings
from fibecfed.comparison.records import SPEC_FILE, read_state, run_directory
from fibecfed.comparison.report import Report
from fibecfed.comparison.spec import Setting
from fibecfed.comparison.standing import BEST, standings
from fibecfed.comparison.statistics import Interval, Spread
from fibecfed.comparison.tables import Cell as Value
from fibecfed.comparison.tables import ReportTable
from fibecfed.report import (
    Cell,
    Chart,
    Page,
    Section,
    Table,
    environment_table,
    holdings_chart,
    lost_in_runs,
    mean_phases,
    phases_chart,
    phases_of,
    score_chart,
)
from fibecfed.results import PROTOCOLS, REPORT_FILE, RunDirectory
from fibecfed.tasks import task_kind

_OFTEN_ALIKE = ("data set", "partition", "note")
_OPEN = 3  # settings whose charts are not folded


def comparison_page(report: Report) -> Page:
    """The page with what the report says, and more to look at."""
    found = report.found
    settings = [s for s in found.spec.settings() if _has_runs(found, s)]
    main, *others = report.tables
    sections = [
        Section("Final scores", [_final(found, main)]),
        Section("Scores over the run", [_curves(found, s, len(settings)) for s in settings]),
        *[Section(table.title, [_table(table)]) for table in others],
        Section("Cost of each phase", _phases(found, settings)),
        Section("Who holds what", _holdings(found, settings), folded=len(settings) > _OPEN),
        Section("What was lost", [*lost_in_runs({r.run.name: r.summary for r in found.final}), *_failed(found.failed)]),
        Section("Runs", [_runs(found)], folded=True),
        Section(
            "Settings and environment",
            [environment_table([r.summary for r in found.final]), _table(report.measured), _settings(found)],
            folded=True,
        ),
    ]
    spec = found.spec
    names = ", ".join(s.title for s in settings[:_OPEN]) + (", …" if len(settings) > _OPEN else "")
    title = f"{len(spec.methods)} methods on {names}"
    overrides = (read_state(found.out) or {}).get("overrides", ())
    command = command_line("compare", SPEC_FILE, *overrides, "--out", "NEW_DIR")
    return Page(title, _lead(found), _facts(found, settings), sections, command)


def _has_runs(found: Findings, setting: Setting) -> bool:
    return any(found.seeds(setting, entry.name) for entry in found.spec.methods)


def _lead(found: Findings) -> str:
    spec = found.spec
    counted = f"{_some(spec.data_sets, 'data set')}, {_some(spec.partitions, 'partition')}"
    seeds = f"{'seed' if len(spec.seeds) == 1 else 'seeds'} {', '.join(map(str, spec.seeds))}"
    said = f"{counted}, {seeds}; judged on the {spec.split} split."
    missing = found.missing()
    return f"{said} Not complete: {missing} runs have not ended." if missing else said


def _some(things: Sequence[object], name: str) -> str:
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"


def _facts(found: Findings, settings: Sequence[Setting]) -> list[tuple[str, str, str]]:
    """The best line of each setting, where there are few."""
    score = found.judged
    facts = []
    for setting in settings[:_OPEN]:
        for protocol in PROTOCOLS:
            best = next((n for n, s in standings(found, setting, protocol).items() if s == BEST), None)
            if best is not None:
                where = f", {setting.title}" if len(settings) > 1 else ""
                facts.append((f"best {protocol}{where}", score.text(found.mean(setting, best, protocol)), best))
    return [*facts, ("runs", f"{len(found.final):,}", f"{len(found.tuning):,} more chose learning rates")]


def _final(found: Findings, main: ReportTable) -> Table:
    """The table of final scores with the best marked, by protocol."""
    marks: dict[tuple[str, str, str], dict[str, str]] = {}
    for setting in found.spec.settings():
        for protocol in PROTOCOLS:
            for entry, standing in standings(found, setting, protocol).items():
                marks.setdefault((setting.data_set, setting.partition, entry), {})[protocol] = standing
    columns = [column.name for column in main.columns]
    rows = [
        [
            _cell(main, i, value, marks.get((str(row[0]), str(row[1]), str(row[2])), {}).get(columns[i], ""))
            for i, value in enumerate(row)
        ]
        for row in main.rows
    ]
    kept = _kept(main)
    said = "★ the best of its setting without centralized-lora, which gathers all text in one place; ≈ not "
    said += "significantly worse than it: the 95 % interval of the differences, paired over seeds, holds 0."
    few = len(found.spec.seeds) < 2
    if few:
        said = "★ the best of its setting without centralized-lora. With one seed nothing is significant."
    notes = [said, *main.notes]
    return Table(_caption(found, main), *_only(kept, columns, rows), notes, _texts(main, kept))


def _caption(found: Findings, table: ReportTable) -> str:
    return f"{table.title}. {found.judged.unit}, {found.judged.better}."


def _table(table: ReportTable) -> Table:
    rows = [[_cell(table, i, value) for i, value in enumerate(row)] for row in table.rows]
    kept = _kept(table)
    columns = [column.name for column in table.columns]
    return Table(table.title, *_only(kept, columns, rows), table.notes, _texts(table, kept))


def _kept(table: ReportTable) -> list[int]:
    """The columns without those for data set, partition and note that say the same in every row."""
    return [
        i
        for i, column in enumerate(table.columns)
        if column.name not in _OFTEN_ALIKE or len({row[i] for row in table.rows}) > 1
    ]


def _only(
    kept: Sequence[int], columns: Sequence[str], rows: Sequence[Sequence[Cell]]
) -> tuple[list[str], list[list[Cell]]]:
    return [columns[i] for i in kept], [[row[i] for i in kept] for row in rows]


def _texts(table: ReportTable, kept: Sequence[int]) -> frozenset[int]:
    """Which of the kept columns hold texts."""
    return frozenset(n for n, i in enumerate(kept) if all(isinstance(row[i], str) for row in table.rows))


def _cell(table: ReportTable, column: int, value: Value, mark: str = "") -> Cell:
    by = value.mean if isinstance(value, Spread | Interval) else value
    return Cell(table.columns[column].show(value), None if isinstance(by, str) else by, mark)


def _curves(found: Findings, setting: Setting, charts: int) -> Chart:
    runs = {
        protocol: {
            e.name: [r.curve for r in seeds.values()]
            for e in found.spec.methods
            if (seeds := found.seeds(setting, e.name, protocol))
        }
        for protocol in PROTOCOLS
    }
    score = found.judged
    best = next((n for n, s in standings(found, setting, "global").items() if s == BEST), None)
    ends = f": {best} ends best at {score.text(found.mean(setting, best))} global" if best else ""
    return score_chart(
        f"{score.metric.capitalize()} on {setting.title}{ends}",
        {protocol: lines for protocol, lines in runs.items() if lines},
        score,
        target=found.target(setting),
        charts=charts,
    )


def _phases(found: Findings, settings: Sequence[Setting]) -> list[Chart | Table | str]:
    """Means over all settings and seeds: a method's phases are the same in each."""
    by_method = {}
    for entry in found.spec.methods:
        records = [r for s in settings for r in found.seeds(s, entry.name).values()]
        if records:
            by_method[entry.name] = mean_phases([phases_of(r.summary) for r in records])
    chart = phases_chart(by_method)
    return [] if chart is None else [chart]


def _holdings(found: Findings, settings: Sequence[Setting]) -> list[Chart | Table | str]:
    """Of the first run of each setting whose directory is there: records hold no partition."""
    charts: list[Chart | Table | str] = []
    for setting in settings:
        records = [r for e in found.spec.methods for r in found.seeds(setting, e.name).values()]
        several = [r for r in records if r.run.config.method != "centralized-lora"] or records
        directory = RunDirectory(run_directory(found.out, several[0].run))
        held = directory.content("partition.json")
        chart = holdings_chart(held, directory.group_names(), task_kind(several[0].run.config).group) if held else None
        if chart is not None:
            note = f"{setting.title}, seed {several[0].run.seed}."
            charts.append(Chart(chart.title, chart.rows, chart.data, f"{note} {chart.note}", chart.keys, wide=True))
    return charts


def _failed(failed: Mapping[str, str]) -> list[str]:
    return [f"Run '{name}' failed: {reason}" for name, reason in failed.items()]


def _runs(found: Findings) -> Table:
    """Every run with a link to its own report, where there is one."""
    score = found.judged
    rows: list[list[Cell | str]] = []
    for record in found.final:
        folder = run_directory(found.out, record.run)
        name: str | Markup = record.run.name
        if (folder / REPORT_FILE).is_file():
            place = f"{folder.relative_to(found.out).as_posix()}/{REPORT_FILE}"
            name = Markup('<a href="{}">{}</a>').format(place, name)
        scores = [Cell(score.number(record.score(p)), record.score(p)) for p in PROTOCOLS]
        rate = record.run.config.training.learning_rate
        rows.append([Cell(name, record.run.name), Cell(str(record.run.seed), record.run.seed), f"{rate:g}", *scores])
    columns = ["run", "seed", "learning rate", *(f"{p}, {score.axis}" for p in PROTOCOLS)]
    return Table("Runs that are reported", columns, rows)


def _settings(found: Findings) -> Table:
    """What the comparison's file says of each method, beside what all have."""

    def said(settings: Mapping[str, Any]) -> str:
        return json.dumps(settings, ensure_ascii=False) if settings else "-"

    spec = found.spec
    rows = [["all", "", said(spec.base)]]
    rows += [[f"data set {d.name}", "", said(d.settings)] for d in spec.data_sets]
    rows += [[f"partition {p.name}", "", said(p.settings)] for p in spec.partitions]
    rows += [[e.name, e.method_name, said(e.settings)] for e in spec.methods]
    return Table("Settings", ["of", "method", "settings"], rows, text_columns=frozenset({0, 1, 2}))
