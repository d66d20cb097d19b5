"""Which learning rates are tried, and which are chosen: for each protocol by its own validation score."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fibecfed.comparison.records import RunRecord, read_record
from fibecfed.comparison.spec import MethodEntry, PlannedRun, Setting, Spec, tuning_run
from fibecfed.results import PROTOCOLS

Cell = tuple[Setting, str]  # a setting and a method's line in it
_SAME = 1e-9  # relative; rates nearer than this are one


@dataclass(frozen=True)
class Tuning:
    """What the tuning of one cell came to so far. ``tried`` ascends, those of runs that failed among them."""

    tried: tuple[float, ...]
    chosen: Mapping[str, float]  # by protocol; empty until every run has ended, or if all failed
    widened: int  # how many times

    def at_edge(self, protocol: str) -> bool:
        """Whether the chosen rate is the lowest or the highest of those tried."""
        return self.chosen.get(protocol) in (self.tried[0], self.tried[-1])


def tunings(out: Path, spec: Spec, failed: Mapping[str, str]) -> dict[Cell, Tuning]:
    """The state of every cell that is tuned, from the records alone; runs in ``failed`` are passed over (diverged).

    Where ``chosen`` is empty, rates in ``tried`` are still to be run.
    """
    return {
        (setting, entry.name): _cell(out, spec, setting, entry, failed)
        for setting in spec.settings()
        for entry in spec.methods
        if spec.grid(entry)
    }


def rates_of(found: Mapping[Cell, Tuning]) -> dict[Cell, Mapping[str, float]]:
    """The chosen rates by protocol of the cells whose tuning is over."""
    return {cell: tuning.chosen for cell, tuning in found.items() if tuning.chosen}


def tried_runs(spec: Spec, found: Mapping[Cell, Tuning]) -> list[PlannedRun]:
    """The tuning runs, those beyond the grids among them."""
    entries = {entry.name: entry for entry in spec.methods}
    return [
        tuning_run(spec, setting, entries[name], rate)
        for (setting, name), tuning in found.items()
        for rate in _grid_first(spec.grid(entries[name]), tuning.tried)
    ]


def _cell(out: Path, spec: Spec, setting: Setting, entry: MethodEntry, failed: Mapping[str, str]) -> Tuning:
    grid = spec.grid(entry)
    tried, widened = sorted(grid), 0
    while True:
        runs = [tuning_run(spec, setting, entry, rate) for rate in _grid_first(grid, tried)]
        records = [read_record(out, run) for run in runs if run.name not in failed]
        ended = [record for record in records if record is not None]
        if not ended or len(ended) < len(records):
            return Tuning(tuple(tried), {}, widened)
        scores = {protocol: _scores(ended, protocol) for protocol in spec.deciding}
        wider = beyond(tried, list(scores.values())) if widened < spec.widenings else []
        if not wider:
            return Tuning(tuple(tried), chosen(scores), widened)
        tried, widened = sorted([*tried, *wider]), widened + 1


def _scores(ended: Sequence[RunRecord], protocol: str) -> dict[float, float]:
    return {record.run.rate: record.goodness(protocol) for record in ended if record.run.rate is not None}


def chosen(scores: Mapping[str, Mapping[float, float]]) -> dict[str, float]:
    """For each protocol the rate of the highest of ``scores``, which are by deciding protocol, then by rate.

    Ties: the rate that the protocol before it chose, else the first of the grid. One deciding protocol decides for
    both.
    """
    found: dict[str, float] = {}
    for protocol, by_rate in scores.items():
        best = max(by_rate.values())
        equal = [rate for rate, score in by_rate.items() if score == best]
        found[protocol] = next((rate for rate in found.values() if rate in equal), equal[0])
    (default, *_) = found.values()
    return {protocol: found.get(protocol, default) for protocol in PROTOCOLS}


def beyond(tried: Sequence[float], scores: Sequence[Mapping[float, float]]) -> list[float]:
    """The rates to try beyond the edges of ``tried`` (ascending); none where the best of each score lies inside.

    One step in the ratio of the last two rates. A best that a rate inside equals lies inside; a rate that was tried
    and has no score (it diverged) is an edge that is not widened over. One rate alone has no ratio to widen by.
    """
    if len(tried) < 2:
        return []
    inside = tried[1:-1]
    wanted: list[float] = []
    for edge, neighbour in ((tried[0], tried[1]), (tried[-1], tried[-2])):
        for by_rate in scores:
            best = max(by_rate.values())
            if by_rate.get(edge) == best and not any(by_rate.get(rate) == best for rate in inside):
                wanted.append(float(f"{edge * edge / neighbour:.3g}"))
    return sorted(set(wanted))


def _grid_first(grid: Sequence[float], tried: Sequence[float]) -> list[float]:
    """The grid in its own order, then what was tried beyond it."""
    return [*grid, *(rate for rate in tried if not any(abs(rate - g) <= _SAME * g for g in grid))]
