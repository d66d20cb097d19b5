"""The tables and pictures of a comparison, made from its records alone."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fibecfed.comparison.findings import Findings
from fibecfed.comparison.plots import comparison_png
from fibecfed.comparison.running import Comparison
from fibecfed.comparison.spec import Setting
from fibecfed.comparison.statistics import CENTRALIZED, CONSECUTIVE, RIDGE, Spread, ratio, spread
from fibecfed.comparison.tables import Cell, Column, ReportTable
from fibecfed.federation import write_atomically
from fibecfed.results import LAST, PROTOCOLS, judged_stage

FOLDER, MARKDOWN_FILE, MEASURED_FILE = "report", "report.md", "measured.md"
_WHERE = (Column("data set"), Column("partition"), Column("method"))


@dataclass(frozen=True)
class Report:
    """``tables`` depend on the runs' seeds only; ``measured`` (seconds, memory) on the machine and its load too."""

    introduction: str
    tables: tuple[ReportTable, ...]
    measured: ReportTable
    pictures: dict[str, bytes]
    found: Findings  # what all of it is made from
    metric: str = "accuracy"

    def markdown(self) -> str:
        """Everything that a repeated run gives again, digit by digit."""
        pictures = "\n".join(f"![{self.metric}: {name}]({name})\n" for name in self.pictures)
        return "\n".join([self.introduction, *[table.markdown() for table in self.tables], pictures])


def build_report(out: Path) -> Report:
    """The report of a comparison's directory. Raises InputError if it is none, has no results, or mixes them."""
    comparison, failed = Comparison.open(out)
    found = Findings(comparison.spec, comparison.out, failed)
    tables = [_final(found), _target(found), _costs(found), _ranks(found), _gains(found), _ablations(found)]
    tables += [_both_rates(found), _tuning(found)]
    kept = tuple(t for t in tables if t.rows)
    return Report(_introduction(found), kept, _measured(found), _pictures(found), found, found.judged.metric)


def write_report(report: Report) -> list[Path]:
    """Write DIR/report: report.md and measured.md, each table as CSV and LaTeX, a PNG for each setting."""
    files = {MARKDOWN_FILE: report.markdown().encode(), MEASURED_FILE: f"# {report.measured.markdown()[3:]}".encode()}
    for table in (*report.tables, report.measured):
        files |= {f"{table.key}.csv": table.csv().encode(), f"{table.key}.tex": table.latex().encode()}
    files |= report.pictures
    folder = report.found.out / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_atomically(folder / name, content)
    return [folder / name for name in files]


def _introduction(found: Findings) -> str:
    spec, first = found.spec, found.final[0]
    commits = sorted({str(r.summary["git_commit"]) for r in found.final} - {"None"})
    made = ", ".join(f"{name} {version}" for name, version in first.made_with.items() if version != "None")
    lines = [
        "# Comparison\n",
        f"{len(spec.methods)} methods, {len(spec.data_sets)} data sets, {len(spec.partitions)} partitions, "
        f"{len(spec.seeds)} seeds. {found.judged.unit}, on the {spec.split} split; final {found.judged.metric} is the "
        f"mean of {_averaged(found)}.\n",
    ]
    if found.missing():
        lines.append(f"**Not complete: {found.missing()} runs have not ended.** Means are over those that have.\n")
    lines.append(f"Made with {made}{'; commit ' + ', '.join(commits) if commits else ''}.\n")
    if len(commits) > 1:
        lines.append("**The runs are of more than one commit.**\n")
    return "\n".join(lines)


def _averaged(found: Findings) -> str:
    last = found.final[0].last
    return f"the last {last} evaluations" if last else f"the last quarter of a run's evaluations, at most {LAST}"


def _judged(found: Findings) -> list[str]:
    """A note naming the lines whose final number is that of a stage after the rounds; none without such lines."""
    lines = {r.run.entry: judged_stage(r.curve) for r in found.final}
    named = [f"{entry} ({stage})" for entry, stage in lines.items() if stage is not None]
    if not named:
        return []
    return [
        "A method that ends with a judged stage after its rounds has that evaluation alone as its final number, "
        f"not a mean: {', '.join(named)}."
    ]


def _lines(found: Findings) -> Iterable[tuple[Setting, str, tuple[Cell, ...]]]:
    """Setting and method of each line that has a run, and the first cells of its row."""
    for setting in found.spec.settings():
        for entry in found.spec.methods:
            if found.seeds(setting, entry.name):
                yield setting, entry.name, (setting.data_set, setting.partition, entry.name)


def _final(found: Findings) -> ReportTable:
    rows = []
    shows_saved = found.final[0].last is None  # a comparison of the earlier rule keeps its table
    shows_untrained = any(r.untrained is not None for r in found.final)
    for setting, entry, where in _lines(found):
        records = {p: found.seeds(setting, entry, p).values() for p in PROTOCOLS}
        cells = [_spread([r.score(p) for r in records[p]]) for p in PROTOCOLS]
        worst = _spread([r.worst_tenth for r in records["personalized"]])
        saved = [_spread([r.saved(p) for r in records[p]]) for p in PROTOCOLS] if shows_saved else []
        remarks = ["carries no claim"] * found.no_claim(setting) + ["two rates"] * found.rates_differ(setting, entry)
        first = [_spread([r.untrained for r in records["global"] if r.untrained is not None])] * shows_untrained
        rows.append((*where, len(records["global"]), *first, *cells, worst, *saved, "; ".join(remarks)))
    shown = (
        *["untrained"] * shows_untrained,
        *PROTOCOLS,
        "worst tenth",
        *(f"saved model, {p}" for p in PROTOCOLS if shows_saved),
    )
    columns = (*_WHERE, Column("seeds"), *map(found.judged.column, shown), Column("note"))
    notes = [
        "Mean ± sample standard deviation over seeds. global: the server's model on all test examples; personalized: "
        "each device's own model on its part; worst tenth: mean over the worst tenth of devices."
    ]
    if shows_saved:
        notes.append(
            f"Those are final {found.judged.plural}, means of each run's last evaluations; saved model: the last "
            "evaluation's."
        )
    if shows_untrained:
        notes.append("untrained: the global score before the first round.")
    if found.judged.sign < 0:
        notes.append(f"{found.judged.metric.capitalize()}: {found.judged.better}.")
    notes += _judged(found)
    if any("two rates" in str(row[-1]) for row in rows):
        notes.append(
            "two rates: each protocol has the runs at the learning rate that its own validation score chose; both runs "
            "are in the table of both rates, and costs are those of the global one's."
        )
    without = [s for s in found.spec.settings() if found.no_claim(s)]
    if without:
        which = "; ".join(f"{s.title} ({found.no_claim_reason(s)})" for s in without)
        notes.append(f"Carries no claim, since {RIDGE} is at most 2 points below {CENTRALIZED}, or above it: {which}.")
    return ReportTable(found.judged.metric, f"Final {found.judged.metric}", columns, rows, notes)


def _both_rates(found: Findings) -> ReportTable:
    """Where the protocols chose different rates: the runs at each, by both protocols."""
    rows = []
    for setting, entry, where in _lines(found):
        if found.rates_differ(setting, entry):
            for protocol in PROTOCOLS:
                records = found.seeds(setting, entry, protocol).values()
                cells = [_spread([r.score(p) for r in records]) for p in PROTOCOLS]
                rate = found.rates[setting, entry][protocol]
                rows.append((*where, protocol, f"{rate:g}", len(records), *cells))
    columns = (
        *_WHERE, Column("chosen by"), Column("learning rate"), Column("seeds"), *map(found.judged.column, PROTOCOLS)
    )  # fmt: skip
    return ReportTable("both-rates", "Both learning rates, where the protocols chose different ones", columns, rows)


def _spread(values: list[float]) -> Spread | None:
    return spread(values) if values else None


def _target(found: Findings) -> ReportTable:
    rows = []
    for setting, entry, where in _lines(found):
        target = found.target(setting)
        if target is None:
            continue
        each, mean = found.to_target(setting, entry), found.mean_to_target(setting, entry)
        means = {e.name: found.mean_to_target(setting, e.name) for e in found.spec.methods}
        slowest = max((m[0] for m in means.values() if m is not None), default=None)
        reference = means.get(found.spec.compared_with)
        seconds, traffic = mean if mean is not None else (None, None)
        of_reference = ratio(seconds, reference[0] if reference else None)
        reached = f"{sum(e is not None for e in each)} of {len(each)}"
        rows.append((*where, target, reached, seconds, of_reference, ratio(seconds, slowest), traffic))
    columns = (
        *_WHERE, found.judged.column("target"), Column("reached"), Column("simulated s", 1),
        Column(f"÷ {found.spec.compared_with}", 2),
        Column("÷ slowest", 2), Column("MB", 1, 1e-6, plain_name="bytes"),
    )  # fmt: skip
    notes = [
        f"The target is reached when the mean global {found.judged.metric} of {CONSECUTIVE} consecutive evaluations is "
        f"at {'least' if found.judged.sign > 0 else 'most'} that; costs up to the last of them, means over "
        "seeds, given where every seed reaches it. A ratio below 1 is faster.",
    ]
    return ReportTable("target", f"Cost to the target {found.judged.metric}", columns, rows, notes)


def _costs(found: Findings) -> ReportTable:
    rows = []
    for setting, entry, where in _lines(found):
        summaries = [r.summary for r in found.seeds(setting, entry).values()]
        trained = spread([s["examples_trained"] for s in summaries]).mean
        scored = spread([s["examples_scored"] for s in summaries]).mean
        traffic = [spread([s["bytes"][way] for s in summaries]).mean for way in ("up", "down")]
        rows.append((*where, trained, scored, *traffic, spread([s["seconds"]["simulated"] for s in summaries]).mean))
    columns = (
        *_WHERE, Column("examples trained"), Column("examples scored"),
        Column("MB up", 1, 1e-6, plain_name="bytes up"), Column("MB down", 1, 1e-6, plain_name="bytes down"),
        Column("simulated s", 1),
    )  # fmt: skip
    return ReportTable("costs", "Costs of a whole run", columns, rows, ["Means over seeds."])


def _ranks(found: Findings) -> ReportTable:
    ranks = {protocol: found.ranks(protocol) for protocol in PROTOCOLS}
    rows: list[tuple[Cell, ...]] = [
        (e.name, *(ranks[p][e.name] for p in PROTOCOLS)) for e in found.spec.methods if ranks["global"]
    ]
    columns = (Column("method"), *(Column(p, 2) for p in PROTOCOLS))
    note = (
        f"By mean final {found.judged.metric}, 1 is best, ties share; mean over the {len(found.complete)} settings "
        "(data set and partition) in which every method has all its seeds."
    )
    return ReportTable("ranks", "Average rank", columns, rows, [note])


def _gains(found: Findings) -> ReportTable:
    rows: list[tuple[Cell, ...]] = []
    for entry in found.spec.methods:
        if found.is_control(entry) or entry.method_name == CENTRALIZED:
            continue
        gains = [found.gain(entry.name, protocol) for protocol in PROTOCOLS]
        if any(gain is not None for gain in gains):
            rows.append((entry.name, *gains))
    settings = [s for s in found.spec.settings() if not found.no_claim(s)]
    notes = [
        f"{found.judged.difference}; mean and 95 % interval (Student's t) of differences paired over seeds and "
        "settings."
    ]
    if found.judged.sign < 0:
        notes.append("A gain is how much lower the loss is.")
    for protocol in PROTOCOLS:
        best = [f"{found.best_control(s, protocol)} ({s.title})" for s in settings if found.best_control(s, protocol)]
        notes.append(f"Best control, {protocol}: {'; '.join(best)}.")
    left_out = len(found.spec.settings()) - len(settings)
    if left_out:
        notes.append(f"{left_out} settings that carry no claim are left out.")
    columns = (Column("method"), *(found.judged.column(p, signed=True) for p in PROTOCOLS))
    return ReportTable("gains", "Gain over the best control", columns, rows, notes)


def _ablations(found: Findings) -> ReportTable:
    whole = {e.name for e in found.spec.methods if e.name == e.method_name}
    rows: list[tuple[Cell, ...]] = []
    for entry in found.spec.methods:
        if entry.name != entry.method_name and entry.method_name in whole:
            against = [found.against(entry.name, entry.method_name, protocol) for protocol in PROTOCOLS]
            rows.append((entry.name, entry.method_name, *against))
    columns = (Column("configuration"), Column("of"), *(found.judged.column(p, signed=True) for p in PROTOCOLS))
    better = "Points above" if found.judged.sign > 0 else "Nats a token below"
    note = f"{better} the unchanged method; mean and 95 % interval of differences paired over seeds and settings."
    return ReportTable("ablations", "Ablations", columns, rows, [note])


def _tuning(found: Findings) -> ReportTable:
    scores = {(r.run.setting, r.run.entry, r.run.rate, p): r.score(p) for r in found.tuning for p in PROTOCOLS}
    deciding, rows = found.spec.deciding, []
    for entry in found.spec.methods:
        for setting in found.spec.settings():
            tuning = found.tunings.get((setting, entry.name))
            if tuning is None or not tuning.chosen:
                continue
            cells: list[Cell] = []
            for protocol in deciding:
                rate = tuning.chosen[protocol]
                cells += [f"{rate:g}", scores[setting, entry.name, rate, protocol]]
            edges = [protocol for protocol in deciding if tuning.at_edge(protocol)]
            by = f" ({' and '.join(edges)})" if len(deciding) > 1 else ""
            remarks = [f"at the grid's edge{by}"] * bool(edges) + [f"widened {tuning.widened} x"] * bool(tuning.widened)
            rows.append((setting.data_set, setting.partition, entry.name, *cells, "; ".join(remarks)))
    own = len(deciding) > 1
    pairs = [
        (
            Column(f"learning rate, {p}" if own else "learning rate"),
            found.judged.column(f"validation, {p}" if own else f"validation {found.judged.metric}"),
        )
        for p in deciding
    ]
    columns = (*_WHERE, *(column for pair in pairs for column in pair), Column("note"))
    untuned = [e.name for e in found.spec.methods if not found.spec.grid(e)]
    by = f"each protocol by its own {found.judged.metric}" if own else f"{deciding[0]} {found.judged.metric}"
    notes = [
        f"Chosen on validation data (seed {found.spec.tuning_seed}, {by}) from a grid of "
        f"{len(found.spec.learning_rates or [])} rates for each method."
    ]
    if found.spec.widenings:
        notes.append(
            f"While the best rate is at an edge, the grid is widened by its own factor, at most {found.spec.widenings} "
            "times; a rate that is still at an edge is noted."
        )
    if untuned:
        notes.append(f"Not tuned: {', '.join(untuned)}.")
    return ReportTable("tuning", "Learning rates", columns, rows, notes)


def _measured(found: Findings) -> ReportTable:
    rows = []
    for setting, entry, where in _lines(found):
        summaries = [r.summary for r in found.seeds(setting, entry).values()]
        seconds = [spread([s["seconds"][kind] for s in summaries]).mean for kind in ("cpu", "wall")]
        rows.append((*where, spread([s["peak_memory_bytes"] for s in summaries]).mean, *seconds))
    machines = sorted(
        {f"{r.summary['hardware']['processor']}, {r.summary['hardware']['cores']} cores" for r in found.final}
        | {str(r.summary["hardware"]["accelerator"]) for r in found.final if r.summary["hardware"]["accelerator"]}
    )
    columns = (*_WHERE, Column("peak MB", 0, 1e-6, plain_name="peak bytes"), Column("CPU s", 1), Column("wall s", 1))
    notes = [
        f"Means over seeds; they differ from run to run, and with what else the machine did: {', '.join(machines)}."
    ]
    return ReportTable("measured", "Memory and seconds as measured", columns, rows, notes)


def _pictures(found: Findings) -> dict[str, bytes]:
    pictures = {}
    for setting in found.spec.settings():
        curves = {
            e.name: [r.curve for r in found.seeds(setting, e.name).values()]
            for e in found.spec.methods
            if found.seeds(setting, e.name)
        }
        if curves:
            name = f"curves--{setting.data_set}--{setting.partition}.png"
            pictures[name] = comparison_png(curves, setting.title, found.target(setting))
    return pictures
