"""One JSON for each run that has ended: configuration, summary, whole curve. Tables are made from these alone."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fibecfed.comparison.spec import PlannedRun, Spec
from fibecfed.config import WHERE, Config, as_meant, build_config, config_hash, read_yaml, to_dict
from fibecfed.data import source_differences
from fibecfed.errors import InputError
from fibecfed.federation import write_atomically
from fibecfed.methods import in_use, resolve
from fibecfed.results import (
    JUDGED,
    LAST,
    PROTOCOLS,
    RunDirectory,
    final_mean,
    judged_stage,
    metric_of,
    score_of,
    sign_of,
)

SPEC_FILE, STATE_FILE = "spec.yaml", "comparison.json"
FINAL = "final_mean"  # in comparison.json: what the final numbers are the mean of
RATES = "rates"  # in comparison.json: by what learning rates are chosen
_RUNS, _RECORDS = "runs", "records"


@dataclass(frozen=True)
class RunRecord:
    """A run that has ended."""

    run: PlannedRun
    summary: Mapping[str, Any]
    curve: list[dict[str, Any]]
    last: int | None = None  # evaluations that a final number is the mean of; None: as ``results.window`` says

    @property
    def made_with(self) -> Mapping[str, str]:
        """Versions, and the accelerator where one was used: what numbers depend on beside the settings."""
        return made_with(self.summary["versions"], self.summary["hardware"], [self.run])

    def score(self, protocol: str) -> float:
        """Final score by a protocol: the mean over the last evaluations, or a judged stage's alone."""
        return final_mean(self.curve, f"{metric_of(self.curve)}_{protocol}", self.last)

    def goodness(self, protocol: str) -> float:
        """The final score with the sign that makes a higher one better."""
        return sign_of(self.curve) * self.score(protocol)

    @property
    def untrained(self) -> float | None:
        """The global score before the first round; None where the run was not evaluated there."""
        return score_of(self.curve[0], PROTOCOLS[0]) if self.curve[0]["round"] == 0 and len(self.curve) > 1 else None

    @property
    def worst_tenth(self) -> float:
        """The mean of the worst tenth of devices, over the same evaluations."""
        return final_mean(self.curve, "worst_tenth", self.last)

    def saved(self, protocol: str) -> float:
        """The score of the model that the run saved: its last evaluation's."""
        return final_mean(self.curve, f"{metric_of(self.curve)}_{protocol}", 1)


def made_with(versions: Mapping[str, str], hardware: Mapping[str, Any], runs: Iterable[PlannedRun]) -> dict[str, str]:
    """Versions, and the accelerator if any of the runs uses one."""
    used = any(run.config.runtime.device != "cpu" for run in runs)
    return {**versions, "accelerator": str(hardware["accelerator"] if used else None)}


def run_directory(out: Path, run: PlannedRun) -> Path:
    """Where a run lies."""
    return out / _RUNS / run.name


def same_settings(stored: Mapping[str, Any], config: Config) -> bool:
    """Whether a stored configuration means what this one does; keys it does not know yet have their defaults."""
    try:
        then = build_config(as_meant(stored))
        return config_hash(then) == config_hash(config) or config_hash(in_use(then)) == config_hash(in_use(config))
    except InputError:  # written by a version with other keys
        return False


def read_record(out: Path, run: PlannedRun) -> RunRecord | None:
    """The run's record, written from its directory if need be; None while it has not ended.

    Raises InputError if what lies there was made with other settings.
    """
    path = out / _RECORDS / f"{run.name}.json"
    directory = run_directory(out, run)
    if not path.is_file():
        summary = RunDirectory(directory).summary()
        if summary is None:
            return None
        opened = RunDirectory.open(directory)
        config = to_dict(opened.config())
        for section in ("data", "model"):
            config[section].pop("dir")  # a machine's path says nothing about the result
        content: dict[str, Any] = {"config": config, "summary": summary, "curve": opened.metrics()}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        stored, summary, curve = content["config"], content["summary"], content["curve"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError) as error:
        raise InputError(f"'{path}' is not the record of a run ({error!r}); delete it.") from None
    if not same_settings(stored, run.config):
        raise InputError(_other_settings(path))
    if changed := _on_its_way(summary.get("changed_on_the_way", ())):
        raise InputError(_changed(path, changed))
    return RunRecord(run, summary, _marked(curve, run.config), averaged(out))


def begun(out: Path, run: PlannedRun) -> bool:
    """Whether the run was started and can be gone on with. Raises InputError if it has other settings."""
    directory = run_directory(out, run)
    if not (directory / "config.yaml").is_file():
        return False
    if not same_settings(read_yaml(directory / "config.yaml"), run.config):
        raise InputError(_other_settings(directory))
    kept = RunDirectory(directory).fingerprint()
    if kept is not None and (changed := _on_its_way(kept.history)):
        raise InputError(_changed(directory, changed))
    return True


def read_state(out: Path) -> dict[str, Any] | None:
    """comparison.json; None where there is none. Raises InputError if it cannot be read."""
    path = out / STATE_FILE
    if not path.is_file():
        return None
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"'{path}' cannot be read ({error}); use another --out.") from None


def averaged(out: Path) -> int | None:
    """How many evaluations a final number of this comparison is the mean of; None: as ``results.window`` says.

    One that was begun before that rule keeps its own: the last five.
    """
    state = read_state(out)
    return LAST if state is not None and FINAL not in state else None


def _other_settings(path: Path) -> str:
    return (
        f"'{path}' holds a run with other settings than the comparison asks for under that name; results are not "
        "mixed. Delete it (its folder under runs/ and its file under records/), or use another --out."
    )


def _on_its_way(history: Iterable[Mapping[str, Any]]) -> list[str]:
    """The settings that a run changed on its way, but for where files lie."""
    return sorted({str(entry["key"]) for entry in history} - set(WHERE))


def _changed(path: Path, keys: Sequence[str]) -> str:
    return (
        f"'{path}' holds a run that went on with other settings on its way ({', '.join(keys)}); it is not the run "
        "that the comparison asks for. Delete it (under runs/ and under records/), or use another --out."
    )


def check_same_data(record: RunRecord, now: Mapping[str, Any]) -> None:
    """Raise InputError if the data that a run was made of is not what is read ``now`` (``Splits.source``)."""
    then = record.summary.get("data_print")
    differ = source_differences(then["source"], now) if then is not None else []
    if differ:
        raise InputError(
            f"Run '{record.run.name}' was made of other data than there is now: {'; '.join(differ)}. Results of "
            "different data are not mixed: put the data back, or use another --out."
        )


def as_begun(out: Path, spec: Spec) -> Spec:
    """The spec by the rules that a comparison began with.

    One from before rates were chosen by protocol has the choice by the global score, and grids that stay as they are.
    """
    state = read_state(out)
    if state is None or RATES in state:
        return spec
    return replace(spec, chosen_by="global" if spec.chosen_by == "own" else spec.chosen_by, widenings=0)


def _marked(curve: list[dict[str, Any]], config: Config) -> list[dict[str, Any]]:
    """The curve of a version that did not name the stage after the rounds, with its name."""
    if not curve or judged_stage(curve) is not None or curve[-1]["round"] < config.federation.rounds:
        return curve
    used = resolve(config)
    merged = used.sharing.average_local and used.sharing.layers != "all"
    stage = "merge" if merged else "finetune" if used.method == "fedavg+finetune" else None
    return curve if stage is None else [*curve[:-1], curve[-1] | {JUDGED: stage}]


def differing_version(one: Mapping[str, str], other: Mapping[str, str]) -> str | None:
    """``torch 2.12.0 and 2.13.0`` for the first package whose version differs."""
    for name in sorted({*one, *other}):
        if one.get(name) != other.get(name):
            return f"{name} {one.get(name, 'unknown')} and {other.get(name, 'unknown')}"
    return None
