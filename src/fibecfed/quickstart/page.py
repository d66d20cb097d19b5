"""The report of a quick start that is looked at, from the runs in its directory."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from fibecfed.commands import command_line
from fibecfed.methods import method_class
from fibecfed.quickstart.report import Findings
from fibecfed.report import (
    Cell,
    Page,
    Score,
    Section,
    Table,
    environment_table,
    holdings_chart,
    lost_in_runs,
    phases_chart,
    phases_of,
    score_chart,
    settings_table,
)
from fibecfed.results import PROTOCOLS, REPORT_FILE, RunDirectory
from fibecfed.tasks import task_kind


def quickstart_page(found: Findings) -> Page:
    """The page with the table, how to read it, and more to look at."""
    folder, config = found.plan.out, found.plan.config
    summaries = {summary["method"]: summary for summary in found.summaries}
    runs = {name: RunDirectory(folder / name) for name in summaries}
    curves = {name: [run.metrics()] for name, run in runs.items()}
    first = next(iter(runs.values()))
    score = Score.of(first.metrics())
    federated = next(
        (run for run in runs.values() if (run.content("partition.json") or {}).get("devices", 1) > 1), first
    )
    held = federated.content("partition.json")
    holdings = holdings_chart(held, federated.group_names(), task_kind(config).group) if held else None
    title = f"Quick start: {len(runs)} methods on {config.dataset}"
    best = max(_competing(summaries), key=lambda name: score.sign * summaries[name][score.metric]["global"])
    chart = score_chart(
        f"{score.metric.capitalize()} over the runs: {best} ends best at "
        f"{score.text(summaries[best][score.metric]['global'])} global",
        dict.fromkeys(PROTOCOLS, curves),
        score,
    )
    phases = phases_chart({name: phases_of(summary) for name, summary in summaries.items()})
    sections = [
        Section("Final scores", [_final(folder, summaries, score), *found.reading()]),
        Section("Scores over the runs", [chart]),
        Section("Who holds what", [holdings] if holdings else []),
        Section("Costs", [phases] if phases else []),
        Section("What was lost", lost_in_runs(summaries)),
        Section(
            "Settings and environment",
            [environment_table(list(summaries.values())), settings_table(config)],
            folded=True,
        ),
    ]
    lead = (
        f"{config.federation.device_count} devices, seed {config.seed}; judged on the {config.evaluation.split} split."
    )
    return Page(title, lead, [], sections, command_line("quickstart", "--out", "NEW_DIR"))


def _competing(summaries: Mapping[str, object]) -> list[str]:
    """All methods but the one that gathers what may not be gathered, if there are others."""
    return [name for name in summaries if name != "centralized-lora"] or list(summaries)


def _final(folder: Path, summaries: Mapping[str, Mapping[str, Any]], score: Score) -> Table:
    """A line for each method, the best of both protocols marked."""
    values = {p: {name: summary[score.metric][p] for name, summary in summaries.items()} for p in PROTOCOLS}
    competing = _competing(summaries)
    best = {p: max(score.sign * of[name] for name in competing) for p, of in values.items()}
    rows: list[list[Cell | str]] = []
    for name, summary in summaries.items():
        method, sent = method_class(summary["method"]), summary["bytes"]["up"] + summary["bytes"]["down"]
        shown: str | Markup = name
        if (folder / name / REPORT_FILE).is_file():
            shown = Markup('<a href="{}">{}</a>').format(f"{name}/{REPORT_FILE}", name)
        marks = {p: name in competing and score.sign * values[p][name] == best[p] for p in PROTOCOLS}  # all that tie
        scores = [Cell(score.number(values[p][name]), values[p][name], "best" if marks[p] else "") for p in PROTOCOLS]
        rows.append(
            [
                Cell(shown, name), method.trains, method.sends, *scores,
                Cell(score.number(summary["worst_tenth"]), summary["worst_tenth"]),
                Cell(f"{sent / 1e6:,.1f}", sent),
                Cell(f"{summary['seconds']['simulated']:,.0f}", summary["seconds"]["simulated"]),
            ]
        )  # fmt: skip
    columns = ["method", "trains", "sends", *(f"{p}, {score.axis}" for p in PROTOCOLS), f"worst tenth, {score.axis}",
               "sent (MB)", "simulated time (s)"]  # fmt: skip
    notes = [
        "★ the best without centralized-lora, which gathers all text in one place.",
        "With one seed no difference is shown to be more than chance.",
    ]
    return Table("What the methods reach, and what they cost", columns, rows, notes, frozenset({0, 1, 2}))
