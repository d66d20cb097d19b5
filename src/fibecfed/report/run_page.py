"""The report of one run, from the files in its directory and nothing else."""

from collections.abc import Mapping, Sequence
from typing import Any

from fibecfed.commands import going_on
from fibecfed.config import Config, settle
from fibecfed.errors import InputError
from fibecfed.report.costs import lost, phases_chart, phases_of
from fibecfed.report.curves import score_chart
from fibecfed.report.decisions import curriculum_chart, difficulty_chart, layers_chart
from fibecfed.report.devices import answers_tables, devices_chart
from fibecfed.report.holdings import holdings_chart
from fibecfed.report.metrics import metrics_chart
from fibecfed.report.page import Cell, Chart, Page, Rows, Section, Table
from fibecfed.report.score import Score
from fibecfed.report.settings import again, environment_table, settings_table
from fibecfed.results import EVALUATION_FILE, PROTOCOLS, RunDirectory, answer_scores, global_name, metric_of
from fibecfed.tasks import task_kind

Content = list[Chart | Table | str]


def run_page(directory: RunDirectory) -> Page:
    """Raises InputError where the run has not ended, or a file of it is broken."""
    summary, records, config = directory.summary(), directory.metrics(), directory.config()
    if summary is None or not records:
        raise InputError(f"The run in '{directory.path}' has not ended; go on with it: {going_on(directory.path)}")
    held = directory.content("partition.json") or {}
    decided = directory.content("method.json") or {}
    evaluation = directory.content(EVALUATION_FILE)
    if evaluation is not None and evaluation["round"] != records[-1]["round"]:
        evaluation = None  # of a run that another version went on with
    names, group = directory.group_names(), task_kind(config).group
    score = Score.of(records)
    warm_up = decided.get("warm_up_rounds") or None
    devices: Content = []
    if evaluation is not None:
        devices = [*_kept([devices_chart(evaluation, held, names, group)]), *answers_tables(evaluation, names, group)]
    decisions = _kept([layers_chart(decided, held), difficulty_chart(decided), curriculum_chart(decided)])
    decisions += [f"Warning: {warning}" for warning in decided.get("warnings", ())]
    sections = [
        Section("Score", [*_scores(summary, records, config, score, warm_up), _final(summary, score)]),
        Section("Who holds what", _kept([holdings_chart(held, names, group)] if held else [])),
        Section("Devices", devices),
        Section("What the method decided", decisions),
        Section("Costs", _kept([phases_chart({config.method: phases_of(summary)})])),
        Section("What was lost", lost(summary, records, decided, held)),
        Section("Settings and environment", [environment_table([summary]), settings_table(config)], folded=True),
    ]
    title = f"{config.method} on {summary['dataset']}"
    return Page(title, _lead(summary, config, held.get("devices")), _facts(summary, score), sections, again(config))


def _kept(charts: Sequence[Chart | None]) -> Content:
    return [chart for chart in charts if chart is not None]


def _lead(summary: Mapping[str, Any], config: Config, devices: int | None) -> str:
    federation = settle(config, devices).federation  # sites of a folder are counted in the data only
    return (
        f"{federation.device_count} devices, {federation.cohort_size} a round, {summary['rounds']} rounds, seed "
        f"{config.seed}; judged on the {summary['evaluated_on']} split. Data: {summary['data']['origin']}."
    )


def _facts(summary: Mapping[str, Any], score: Score) -> list[tuple[str, str, str]]:
    final, seconds = summary[score.metric], summary["seconds"]
    sent = summary["bytes"]
    return [
        (f"{score.metric}, global", score.text(final["global"]), global_name(summary["method"])),
        (f"{score.metric}, personalized", score.text(final["personalized"]), "each device's own model, own examples"),
        ("worst tenth of devices", score.text(summary["worst_tenth"]), "personalized"),
        ("sent", f"{(sent['up'] + sent['down']) / 1e6:,.1f} MB", f"{sent['up'] / 1e6:,.1f} up"),
        ("simulated time", _seconds(seconds["simulated"]), "on the devices of the settings"),
        ("time here", _seconds(seconds["wall"]), f"{_seconds(seconds['cpu'])} of computing"),
    ]


def _seconds(value: float) -> str:
    return f"{value:,.1f} s" if value < 10 else f"{value:,.0f} s"


def _scores(
    summary: Mapping[str, Any], records: Sequence[Mapping[str, Any]], config: Config, score: Score, warm_up: int | None
) -> Content:
    final = summary[score.metric]
    title = (
        f"{score.metric.capitalize()} over the run: it ends at {score.text(final['global'])} global, "
        f"{score.text(final['personalized'])} personalized"
    )
    runs = {protocol: {config.method: [records]} for protocol in PROTOCOLS}
    charts: Content = [score_chart(title, runs, score, warm_up=warm_up)]
    return charts + _kept([metrics_chart(records, metric_of(records), warm_up)])


def _final(summary: Mapping[str, Any], score: Score) -> Table:
    """Every metric of the saved model and of the mean that comparisons use."""
    mean = summary["mean"]
    several = mean["evaluations"] > 1
    shown = [("saved model", summary), *([(f"mean of the last {mean['evaluations']} evaluations", mean)] * several)]
    others = [name for name, value in mean.items() if isinstance(value, Mapping) and name != score.metric]
    rows: Rows = []
    for whose, numbers in shown:
        for name in (score.metric, *others):
            main = name == score.metric or name in answer_scores(numbers)
            text = score.text if name == score.metric else _plain
            cells = [Cell(text(numbers[name][p]), numbers[name][p], "changed" if main else "") for p in PROTOCOLS]
            worst = numbers["worst_tenth"] if name == score.metric else None
            rows.append([whose, name, *cells, Cell(score.text(worst), worst)])
    notes = [
        "global: the server's model on all held-out examples. personalized: each device's own model on its own. "
        "worst tenth: the mean over the tenth of devices that do worst, personalized."
    ]
    columns = ["whose", "metric", *PROTOCOLS, "worst tenth"]
    return Table("Final numbers", columns, rows, notes, frozenset({0, 1}))


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
