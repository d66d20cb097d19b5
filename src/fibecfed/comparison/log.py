"""A search's log: one JSON line for every run, over all comparisons that were written into it, losers too.

The file is what is committed; the tables beside it follow from it alone. Lines of runs that a later comparison no
longer has stay. Source: project decision.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fibecfed.comparison.findings import Findings
from fibecfed.comparison.judged import Judged
from fibecfed.comparison.log_tables import log_tables
from fibecfed.comparison.records import RunRecord
from fibecfed.comparison.running import Comparison
from fibecfed.comparison.spec import Settings, Spec
from fibecfed.comparison.statistics import reached
from fibecfed.comparison.tables import ReportTable
from fibecfed.config import WHERE, expanded, nearest_hint
from fibecfed.errors import InputError
from fibecfed.federation import write_atomically
from fibecfed.results import score_of

Line = dict[str, Any]
_KEY = ("data_set", "partition", "variant", "split", "seed", "chosen_by")
_COSTS = ("bytes_up", "bytes_down", "operations", "simulated_seconds")
_DIGITS = 6  # decimals of scores: a millionth is far below one test example


def write_log(out: Path, log: Path) -> list[Path]:
    """Add the runs of a comparison's directory to a log, and write its tables beside it; the paths of both.

    A run that is there already takes the place of its line. Raises InputError if there is nothing to add, if the
    log cannot be read, or if it holds a run of that name with other settings.
    """
    comparison, failed = Comparison.open(out)
    found, log = Findings(comparison.spec, comparison.out, failed), expanded(log)
    lines = {_key(line): line for line in read_log(log)}
    for record in found.final:
        line = _line(comparison.spec, record)
        known = lines.get(_key(line))
        if known is not None and known["settings"] != line["settings"]:
            raise InputError(
                f"'{log}' holds run '{record.run.name}' with other settings; what was tried is not overwritten. Give "
                "the variant or the partition another name, or use another --log."
            )
        lines[_key(line)] = line
    if len({Judged.of([line]) for line in lines.values()}) > 1:
        raise InputError(f"'{log}' holds runs that are judged by another score; use another --log.")
    reference = comparison.spec.compared_with
    with_targets = _with_targets(lines, reference)
    log.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n" for line in with_targets)
    write_atomically(log, text.encode())
    tables = log.with_suffix(".md")
    markdown = "\n".join(table.markdown() for table in log_tables(with_targets, reference))
    write_atomically(tables, f"# What was tried\n\n{markdown}".encode())
    return [log, tables]


def tables_of(log: Path, reference: str) -> list[ReportTable]:
    """The tables of a log, against any of its variants. Raises InputError for a log or reference that is none."""
    lines = {_key(line): line for line in read_log(log)}
    if not lines:
        raise InputError(f"'{log}' holds no runs.")
    variants = sorted({line["variant"] for line in lines.values()})
    if reference not in variants:
        raise InputError(
            f"'{log}' has no variant '{reference}' to compare with.{nearest_hint(reference, variants)} It has: "
            f"{', '.join(variants)}."
        )
    return log_tables(_with_targets(lines, reference), reference)


def read_log(log: Path) -> list[Line]:
    """The lines of a log; none where there is no file. Raises InputError if one is no run."""
    if not log.is_file():
        return []
    lines: list[Line] = []
    for number, text in enumerate(log.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            line = json.loads(text)
            _key(line)
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise InputError(f"Line {number} of '{log}' is not a run ({error!r}); remove it.") from None
        lines.append(line)
    return lines


def _with_targets(lines: Mapping[tuple[str, ...], Line], reference: str) -> list[Line]:
    """In order, each with what it spent up to the final score of the reference's run beside it."""
    ordered = [lines[key] for key in sorted(lines, key=str)]
    return [{**line, "to_target": to_target(line, _beside(line, reference, lines))} for line in ordered]


def to_target(line: Line, reference: Line | None) -> dict[str, Any] | None:
    """By protocol the reference run's own final score, and what both runs had spent when they reached it.

    None without a reference run of this setting and seed; ``spent`` is None where this run did not reach it.
    Reached is as in docs/method.md section 7, by each protocol's own scores. A reference whose last evaluations are
    its best may not reach its own final score by that: then its whole run is what it spent [D].
    """
    if reference is None:
        return None
    found: dict[str, Any] = {}
    for protocol in ("global", "personalized"):
        target = reference["final"][protocol]
        found[protocol] = {
            "target": target,
            "spent": _spent(reached(points(line), target, protocol)),
            "reference_spent": _spent(reached(points(reference), target, protocol) or points(reference)[-1]),
        }
    return found


def points(line: Line) -> list[dict[str, Any]]:
    """The curve of a line, one mapping for each evaluation."""
    curve = line["curve"]
    records = [dict(zip(curve, values, strict=True)) for values in zip(*curve.values(), strict=True)]
    judged = Judged.of([line])
    for record in records:
        record |= judged.named()
        for protocol in ("global", "personalized"):
            record[f"{judged.metric}_{protocol}"] = record[protocol]
    if line["after_stage"] is not None:
        records[-1]["after_stage"] = line["after_stage"]
    return records


def _spent(record: Mapping[str, Any] | None) -> dict[str, float] | None:
    if record is None:
        return None
    return {"bytes": record["bytes_up"] + record["bytes_down"], "simulated_seconds": record["simulated_seconds"]}


def _line(spec: Spec, record: RunRecord) -> Line:
    """What a run came to, compactly: ``curve`` holds a list for each quantity."""
    run, summary = record.run, record.summary
    entry = next(e for e in spec.methods if e.name == run.entry)
    curve: dict[str, list[Any]] = {"round": [r["round"] for r in record.curve]}
    for protocol in ("global", "personalized"):
        curve[protocol] = _rounded(score_of(r, protocol) for r in record.curve)
    curve["worst_tenth"] = _rounded(r["worst_tenth"] for r in record.curve)
    curve |= {name: [r[name] for r in record.curve] for name in _COSTS}
    return {
        **Judged.of(record.curve).named(),
        "data_set": run.setting.data_set,
        "partition": run.setting.partition,
        "variant": run.entry,
        "method": entry.method_name,
        "settings": json.loads(json.dumps(_portable(run.given))),
        "split": run.config.evaluation.split,
        "seed": run.seed,
        "chosen_by": list(run.protocols),
        "learning_rate": run.config.training.learning_rate,
        "final": {p: round(record.score(p), _DIGITS) for p in ("global", "personalized")},
        "worst_tenth": round(record.worst_tenth, _DIGITS),
        "after_stage": record.curve[-1].get("after_stage"),
        **{name: record.curve[-1][name] for name in _COSTS},
        "cpu_seconds": round(summary["seconds"]["cpu"], 1),
        "git_commit": summary["git_commit"],
        "versions": dict(summary["versions"]),
        "hardware": dict(summary["hardware"]),
        "curve": curve,
    }


def _portable(given: Settings) -> Settings:
    """What the comparison's file says, without where a machine's files lie, which says nothing about the result."""
    kept = {**given, "data": {key: v for key, v in given.get("data", {}).items() if f"data.{key}" not in WHERE}}
    if "model" in given:  # whose name says which one it is
        kept["model"] = {key: value for key, value in given["model"].items() if key != "dir"}
    return kept


def _rounded(values: Iterable[float]) -> list[float]:
    return [round(float(value), _DIGITS) for value in values]


def _key(line: Line) -> tuple[str, ...]:
    return tuple(json.dumps(line[name]) for name in _KEY)


def _beside(line: Line, variant: str, lines: Mapping[tuple[str, ...], Line]) -> Line | None:
    """The run of another variant in the same setting with the same seed, as ``chosen_by`` or by both protocols."""
    choices: Sequence[list[str]] = (line["chosen_by"], ["global", "personalized"], ["global"])
    keys = (_key({**line, "variant": variant, "chosen_by": choice}) for choice in choices)
    return next((lines[key] for key in keys if key in lines), None)
