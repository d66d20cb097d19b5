"""Carrying out a comparison: tuning runs, then the runs that are reported; what is done stays done."""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from fibecfed.comparison.rates import rates_of, tried_runs, tunings
from fibecfed.comparison.reading import load_spec
from fibecfed.comparison.records import (
    FINAL,
    RATES,
    SPEC_FILE,
    STATE_FILE,
    as_begun,
    begun,
    check_same_data,
    differing_version,
    made_with,
    read_record,
    read_state,
    run_directory,
)
from fibecfed.comparison.spec import PlannedRun, Spec, final_runs, first_rates, tuning_runs
from fibecfed.config import WHERE, expanded, to_dict
from fibecfed.data import load_splits
from fibecfed.errors import InputError
from fibecfed.federation import write_atomically
from fibecfed.methods import method_class, resolve, tuning
from fibecfed.results import hardware, versions
from fibecfed.runtime import Experiment, assemble
from fibecfed.side_by_side import Report, WantedRun, run_side_by_side
from fibecfed.training import torch_device


class Watcher(Report, Protocol):
    """Is told how the comparison goes."""

    def begins(self, stage: str, runs: Sequence[WantedRun]) -> None:
        """A stage (``tuning`` or ``final``) starts with these runs, done ones among them."""


@dataclass(frozen=True)
class Outcome:
    """How far a comparison came: names of runs that are ``finished`` and ``left``; ``failures``: why runs failed."""

    failures: Mapping[str, str]
    finished: tuple[str, ...]
    left: tuple[str, ...]
    out_of_time: bool


class Comparison:
    """A spec and the directory its runs lie in."""

    def __init__(self, spec: Spec, out: Path) -> None:
        self.spec = spec
        self.out = out

    @staticmethod
    def begin(path: Path, out: Path, overrides: Sequence[str] = ()) -> "Comparison":
        """Check everything that can be checked before a run, then write the spec into the directory.

        Raises InputError for a wrong spec, for data or a model that cannot be used, and if the directory holds
        results of other settings or of other versions of the packages that decide numbers.
        """
        comparison = Comparison.checked(path, out, overrides)
        comparison.out.mkdir(parents=True, exist_ok=True)
        write_atomically(comparison.out / SPEC_FILE, path.read_bytes())
        comparison._write_state(overrides=list(overrides))
        return comparison

    @staticmethod
    def checked(path: Path, out: Path, overrides: Sequence[str] = ()) -> "Comparison":
        """What ``begin`` checks, with nothing written but the records of runs that have ended."""
        spec, out = load_spec(path, overrides), expanded(out)
        comparison = Comparison(as_begun(out, spec), out)
        _check_directory(out, comparison.made_with)
        known = {run.name: run for run in comparison._known_runs()}
        waiting = [r for r in comparison._all_runs() if r.name not in known or read_record(out, known[r.name]) is None]
        for run in known.values():
            begun(out, run)  # raises where the directory holds something else
        check_inputs(waiting)
        comparison._check_data([run for run in known.values() if run not in waiting])
        return comparison

    @staticmethod
    def open(out: Path) -> tuple["Comparison", Mapping[str, str]]:
        """The comparison of a directory, and which of its tuning runs failed. Raises InputError if it is none."""
        out = expanded(out)
        state = read_state(out)
        if state is None or not (out / SPEC_FILE).is_file():
            raise InputError(f"'{out}' is not the directory of a comparison (it has no {STATE_FILE}).")
        return Comparison(as_begun(out, load_spec(out / SPEC_FILE, state["overrides"])), out), state["failed"]

    def run(self, jobs: int, hours: float | None, watcher: Watcher) -> Outcome:
        """Run what is not done, ``jobs`` processes at a time, for at most ``hours``.

        Raises InputError if a process finds that its input cannot be used, and KeyboardInterrupt on Ctrl-C; either
        way all processes have ended and what was done is kept.
        """
        deadline = None if hours is None else time.monotonic() + 3600 * hours
        failures: dict[str, str] = {}
        tuning: list[PlannedRun] = []
        while len(wider := tried_runs(self.spec, tunings(self.out, self.spec, failures))) > len(tuning):
            tuning = wider
            failures |= self._stage("tuning", tuning, jobs, deadline, watcher)
            self._write_state(failed=failures)
        rates = rates_of(tunings(self.out, self.spec, failures))
        final = final_runs(self.spec, rates)
        failures |= self._stage("final", final, jobs, deadline, watcher)
        done = {run.name for run in (*tuning, *final) if read_record(self.out, run) is not None}
        later = final_runs(self.spec, {**first_rates(self.spec), **rates})
        wanted = [run.name for run in (*tuning, *later)]
        left = tuple(name for name in wanted if name not in done)
        late = deadline is not None and time.monotonic() >= deadline and bool(set(left) - failures.keys())
        return Outcome(failures, tuple(name for name in wanted if name in done), left, late)

    @property
    def made_with(self) -> Mapping[str, str]:
        """The versions and the accelerator of this process."""
        return made_with(versions(), hardware(), self._all_runs())

    @property
    def accelerators(self) -> int:
        """How many accelerators its runs could use here: 0 where they use the CPU."""
        devices = {torch_device(run.config.runtime.device).type for run in self._all_runs()}
        return 0 if devices == {"cpu"} else max(1, torch.cuda.device_count())

    @property
    def threads(self) -> int:
        """Threads that one run uses, at most."""
        return max(run.config.runtime.threads for run in self._all_runs())

    def _stage(
        self, name: str, runs: Sequence[PlannedRun], jobs: int, deadline: float | None, watcher: Watcher
    ) -> dict[str, str]:
        wanted = [self._wanted(run) for run in runs]
        watcher.begins(name, wanted)
        seconds = None if deadline is None else max(0.0, deadline - time.monotonic())
        if seconds == 0.0:
            return {}
        failures = run_side_by_side(wanted, jobs, watcher, seconds)
        for run in runs:
            read_record(self.out, run)  # writes it for those that ended
        return failures

    def _wanted(self, run: PlannedRun) -> WantedRun:
        directory = run_directory(self.out, run)
        started = begun(self.out, run)
        return WantedRun(run.name, run.config, directory, read_record(self.out, run) is not None, started)

    def _check_data(self, done: Sequence[PlannedRun]) -> None:
        """Raise InputError if a run that is done was made of other data than is there now."""
        read: dict[str, Mapping[str, Any]] = {}
        for run in done:
            record, content = read_record(self.out, run), to_dict(run.config)["data"]
            where = json.dumps([content[key.removeprefix("data.")] for key in WHERE if key.startswith("data.")])
            key = json.dumps([where, content["name"], content["labels"]])
            if record is not None and "data_print" in record.summary:
                if key not in read:
                    read[key] = load_splits(run.config).source
                check_same_data(record, read[key])

    def _known_runs(self) -> list[PlannedRun]:
        """The runs whose settings are settled: the tuning runs, and final runs with a chosen rate or none to choose."""
        found = tunings(self.out, self.spec, (read_state(self.out) or {}).get("failed", {}))
        return tried_runs(self.spec, found) + final_runs(self.spec, rates_of(found))

    def _all_runs(self) -> list[PlannedRun]:
        """Every run of the grids as they stand; final runs have the first rate, which tells their name."""
        return tuning_runs(self.spec) + final_runs(self.spec, first_rates(self.spec))

    @property
    def planned(self) -> Sequence[PlannedRun]:
        """Every run that is known of before grids are widened."""
        return self._all_runs()

    def _write_state(self, **changes: Any) -> None:
        """``overrides`` of the base, what it is ``made_with``, and the tuning runs that ``failed``, with the reason."""
        state = read_state(self.out) or {
            FINAL: "at most five evaluations of the last quarter; a judged stage after the rounds alone",
            RATES: "each protocol by its own validation score",
        }
        state = {"failed": {}, **state, "made_with": self.made_with, **changes}
        write_atomically(self.out / STATE_FILE, (json.dumps(state, indent=1) + "\n").encode())


def _check_directory(out: Path, now: Mapping[str, str]) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"'{out}' is a file; --out must name a directory.")
    state = read_state(out)
    if state is None:
        if out.is_dir() and any(not p.name.startswith(".") for p in out.iterdir() if p.name != SPEC_FILE):
            raise InputError(f"'{out}' holds something other than a comparison; use another --out.")
        return
    differs = differing_version(state["made_with"], now)
    if differs:
        raise InputError(
            f"'{out}' was begun with other versions (then and now: {differs}); results of different versions are not "
            "mixed. Go on with the versions it was begun with, or use another --out."
        )


def check_inputs(runs: Iterable[PlannedRun]) -> None:
    """Find what a run would stumble over: data, model and partition once for each setting, methods one by one.

    Raises InputError naming the run.
    """
    by_input: dict[str, dict[str, PlannedRun]] = {}
    for run in runs:
        content = to_dict(run.config)
        kind = tuning(run.config)
        sections = [content[name] for name in ("data", "model", *kind.sections)]
        inputs = [kind.name, content["federation"]["devices"], *sections]
        own = {key: value for key, value in content.items() if key != "seed"}
        by_input.setdefault(json.dumps(inputs), {}).setdefault(json.dumps(own), run)
    for group in by_input.values():
        experiment: Experiment | None = None
        for run in group.values():
            try:
                experiment = experiment or assemble(run.config)
                method_class(run.config.method)(resolve(run.config), experiment.layout)
            except InputError as error:
                raise InputError(f"Run '{run.name}': {error}") from None
