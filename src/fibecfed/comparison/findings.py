"""The records of a comparison, by setting and method, and what follows from them."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from fibecfed.commands import command_line
from fibecfed.comparison.judged import Judged
from fibecfed.comparison.rates import rates_of, tried_runs, tunings
from fibecfed.comparison.records import RunRecord, check_same_data, differing_version, read_record
from fibecfed.comparison.spec import MethodEntry, PlannedRun, Setting, Spec, final_runs, first_rates
from fibecfed.comparison.statistics import (
    CENTRALIZED,
    RIDGE,
    Interval,
    average_ranks,
    carries_no_claim,
    paired_interval,
    reached,
)
from fibecfed.errors import InputError
from fibecfed.methods import METHODS
from fibecfed.results import PROTOCOLS

# centralized-lora is an upper bound, and none (docs/baselines.md).
_CONTROLS = frozenset(name for name, method in METHODS.items() if method.is_control)


class Findings:
    """What the runs that have ended say. Raises InputError if they were made with different versions or settings."""

    def __init__(self, spec: Spec, out: Path, failed: Mapping[str, str]) -> None:
        self.spec = spec
        self.out = out
        self.failed = failed
        self.tunings = tunings(out, spec, failed)
        self.rates = rates_of(self.tunings)
        self.tuning = _ended(out, tried_runs(spec, self.tunings))
        self.final = _ended(out, final_runs(spec, self.rates))
        if not self.final:
            begin = command_line("compare", "SPEC.yaml", "--out", out)
            raise InputError(f"'{out}' has no run yet that has ended; first run: {begin}")
        for record in (*self.tuning, *self.final):
            differs = differing_version(self.final[0].made_with, record.made_with)
            if differs:
                raise InputError(
                    f"Runs '{self.final[0].run.name}' and '{record.run.name}' were made with different versions "
                    f"({differs}); results of different versions are not mixed. Delete one of them and run it again."
                )
        self._check_data()
        self.judged = Judged.of(self.final[0].curve)
        self._seeds: dict[tuple[Setting, str, str], dict[int, RunRecord]] = {}
        for record in self.final:
            for protocol in record.run.protocols:
                line = (record.run.setting, record.run.entry, protocol)
                self._seeds.setdefault(line, {})[record.run.seed] = record

    def _check_data(self) -> None:
        """Raise InputError if runs on one data set were made of different data."""
        first: dict[str, RunRecord] = {}
        for record in (*self.tuning, *self.final):
            if "data_print" in record.summary:
                one = first.setdefault(record.run.setting.data_set, record)
                check_same_data(record, one.summary["data_print"]["source"])

    def seeds(self, setting: Setting, entry: str, protocol: str = "global") -> Mapping[int, RunRecord]:
        """The records of one line by seed, at the learning rate that was chosen for the protocol."""
        return self._seeds.get((setting, entry, protocol), {})

    def rates_differ(self, setting: Setting, entry: str) -> bool:
        """Whether the protocols chose different learning rates, so that there are two runs for each seed."""
        return len(set(self.rates.get((setting, entry), {}).values())) > 1

    def scores(self, setting: Setting, entry: str, protocol: str) -> list[float]:
        """Final scores of the seeds that are done."""
        return [record.score(protocol) for record in self.seeds(setting, entry, protocol).values()]

    def mean(self, setting: Setting, entry: str | None, protocol: str = "global") -> float | None:
        """Mean final score over seeds; None without a run."""
        values = self.scores(setting, entry, protocol) if entry else []
        return float(np.mean(values)) if values else None

    def no_claim(self, setting: Setting) -> bool:
        """Whether ridge-head is at most two points below centralized-lora there, or above it (global score)."""
        return carries_no_claim(self.mean(setting, RIDGE), self.mean(setting, CENTRALIZED))

    def no_claim_reason(self, setting: Setting) -> str:
        """How far ridge-head is above or below centralized-lora, where both have run."""
        ridge, centralized = self.mean(setting, RIDGE), self.mean(setting, CENTRALIZED)
        assert ridge is not None
        assert centralized is not None
        points = round(100 * (ridge - centralized), 1)
        return f"{points} points above" if points > 0 else f"{-points} points below" if points else "level"

    def target(self, setting: Setting) -> float | None:
        """The score to reach; None if none is given, or its method has no run yet."""
        target = self.spec.target_of(setting.data_set)
        return self.mean(setting, target) if isinstance(target, str) else target

    def to_target(self, setting: Setting, entry: str) -> list[tuple[float, int] | None]:
        """For each seed simulated seconds and bytes both ways to the target; None where it is not reached."""
        target = self.target(setting)
        if target is None:
            return []
        found = [reached(record.curve, target) for record in self.seeds(setting, entry).values()]
        return [
            None if f is None else (float(f["simulated_seconds"]), int(f["bytes_up"] + f["bytes_down"])) for f in found
        ]

    def mean_to_target(self, setting: Setting, entry: str) -> tuple[float, float] | None:
        """Means over the seeds of ``to_target``; None unless every seed reaches it."""
        found = self.to_target(setting, entry)
        known = [f for f in found if f is not None]
        if not known or len(known) < len(found):
            return None
        return float(np.mean([f[0] for f in known])), float(np.mean([f[1] for f in known]))

    @cached_property
    def complete(self) -> list[Setting]:
        """Settings in which every method has all its seeds."""
        wanted = set(self.spec.seeds)
        return [
            s
            for s in self.spec.settings()
            if all(self.seeds(s, e.name, p).keys() == wanted for e in self.spec.methods for p in PROTOCOLS)
        ]

    def ranks(self, protocol: str) -> dict[str, float]:
        """Average rank over the complete settings; empty if there is none."""
        tables = [
            {e.name: self.judged.sign * float(np.mean(self.scores(s, e.name, protocol))) for e in self.spec.methods}
            for s in self.complete
        ]
        return average_ranks(tables) if tables else {}

    def is_control(self, entry: MethodEntry) -> bool:
        """Whether gains are measured against this line."""
        return entry.name in _CONTROLS or entry.method_name in _CONTROLS

    def best_control(self, setting: Setting, protocol: str) -> str | None:
        """The control of the best mean in this setting, on the results that are reported: it gets the benefit."""
        means = {e.name: self.mean(setting, e.name, protocol) for e in self.spec.methods if self.is_control(e)}
        known = {name: mean for name, mean in means.items() if mean is not None}
        return max(known, key=lambda name: self.judged.sign * known[name]) if known else None

    def gain(self, entry: str, protocol: str) -> Interval | None:
        """How much better than the best control of each setting, paired by seed, where a claim can be."""
        differences: list[float] = []
        for setting in self.spec.settings():
            control = self.best_control(setting, protocol)
            if control is not None and not self.no_claim(setting):
                differences += self._differences(setting, entry, control, protocol)
        return paired_interval(differences) if differences else None

    def against(self, entry: str, other: str, protocol: str) -> Interval | None:
        """How much better than another line, paired over seeds × settings."""
        differences = [d for s in self.spec.settings() for d in self._differences(s, entry, other, protocol)]
        return paired_interval(differences) if differences else None

    def _differences(self, setting: Setting, entry: str, other: str, protocol: str) -> list[float]:
        mine, others = self.seeds(setting, entry, protocol), self.seeds(setting, other, protocol)
        return [mine[s].goodness(protocol) - others[s].goodness(protocol) for s in mine if s in others]

    def missing(self) -> int:
        """Final runs that have not ended."""
        return len(final_runs(self.spec, {**first_rates(self.spec), **self.rates})) - len(self.final)


def _ended(out: Path, runs: Sequence[PlannedRun]) -> list[RunRecord]:
    return [record for run in runs if (record := read_record(out, run)) is not None]
