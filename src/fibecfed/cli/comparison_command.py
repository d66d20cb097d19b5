"""What `compare` and `report` show: the runs as they go with the time left, and the tables."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from fibecfed.commands import command_line
from fibecfed.comparison import (
    Comparison,
    Outcome,
    build_report,
    comparison_page,
    write_log,
    write_report,
)
from fibecfed.config import expanded, split_arguments
from fibecfed.errors import InputError, RunFailed
from fibecfed.report import leave_report, write_page
from fibecfed.side_by_side import WantedRun
from fibecfed.training import cores_here

_MOST_NAMED = 10


def rehearse(path: Path, overrides: Sequence[str], out: Path, console: Console) -> None:
    """Check all that a comparison would need and say how many runs it has. Raises InputError as ``compare``."""
    runs = Comparison.checked(path, out, overrides).planned
    tuning = sum(run.tuning for run in runs)
    rounds = sum(run.config.federation.rounds for run in runs)
    _say(
        console,
        f"Nothing is wrong with it: {tuning} tuning runs before grids are widened, {len(runs) - tuning} runs that are "
        f"reported, {rounds} rounds in all. Nothing was run.",
    )


def compare(
    path: Path,
    overrides: Sequence[str],
    out: Path,
    jobs: int | None,
    hours: float | None,
    log: Path | None,
    console: Console,
) -> None:
    """Run what is not done yet, say what is left, write the tables once something can be reported.

    With ``log`` also add the runs to that file, whatever the comparison has come to.

    Raises InputError before the first run for anything that can be found by then, RunFailed at the end if a run failed.
    """
    comparison = Comparison.begin(path, out, overrides)
    watcher = ComparisonProgress(console, jobs or _usual_jobs(comparison))
    again = command_line("compare", path, *overrides, "--out", out, *(("--log", log) if log else ()))
    try:
        outcome = comparison.run(watcher.jobs, hours, watcher)
    except KeyboardInterrupt:
        watcher.stop()
        if log is not None and comparison.reported:
            _add_to(log, out, console)
        _say(console, f"What was done is kept; go on with: {again}")
        raise
    finally:
        watcher.stop()
    if log is not None and any("--seed-" in name for name in outcome.finished):
        _add_to(log, out, console)
    _conclude(outcome, out, again, console)


def _add_to(log: Path, out: Path, console: Console) -> None:
    files = write_log(out, log)
    _say(console, f"Log: {files[0]}, with tables in {files[1]}.")


def report(out: Path, console: Console) -> None:
    """Write the tables and print the first of them. Raises InputError if there is nothing to report."""
    built = build_report(out)
    files = write_report(built)
    page = write_page(comparison_page(built), expanded(out))
    for table in built.tables[:1]:
        console.print(table.markdown(), highlight=False, markup=False, soft_wrap=True)
    _say(console, f"To look at: {page}")
    _say(
        console, f"{files[0]} and, beside it, each table as CSV and LaTeX, measured.md, and a picture of each setting."
    )


def _usual_jobs(comparison: Comparison) -> int:
    """One for each accelerator; without one, as many as the cores that this process may use give room for."""
    if comparison.accelerators:
        return comparison.accelerators
    return max(1, cores_here() // comparison.threads)


def _conclude(outcome: Outcome, out: Path, again: str, console: Console) -> None:
    finished, left = len(outcome.finished), len(outcome.left)
    _say(console, f"{finished} of {finished + left} runs done.")
    if outcome.out_of_time:
        _say(console, f"The time is up. Left: {_some(outcome.left)}. Go on with: {again}")
    if any("--seed-" in name for name in outcome.finished):
        built = build_report(out)
        files = write_report(built)
        _say(console, f"Tables: {files[0]}")
        folder = expanded(out)
        leave_report(lambda: write_page(comparison_page(built), folder), folder, lambda text: _say(console, text))
    if outcome.failures:
        reasons = "; ".join(f"{name}: {reason.rstrip('.')}" for name, reason in outcome.failures.items())
        raise RunFailed(f"{reasons}. The other runs are kept; to try again: {again}")


def _some(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


class ComparisonProgress:
    """One line for the stage with the time left: live on a terminal; elsewhere a line whenever a run ends."""

    def __init__(self, console: Console, jobs: int) -> None:
        self.jobs = jobs
        self._console = console
        self._bar: Progress | None = None
        self._line: TaskID | None = None
        self._stage = ""
        self._runs = self._ended = 0
        self._left = 0  # rounds
        self._rounds = 0  # done in this stage, by this process
        self._seen: dict[str, int] = {}
        self._started = 0.0

    def begins(self, stage: str, runs: Sequence[WantedRun]) -> None:
        """Say how many runs there are."""
        self.stop()
        waiting = [wanted for wanted in runs if not wanted.done]
        self._stage, self._runs, self._ended = stage, len(runs), len(runs) - len(waiting)
        self._left, self._rounds = sum(wanted.config.federation.rounds for wanted in waiting), 0
        self._seen, self._started = {}, time.perf_counter()
        word = "tuning runs on validation data" if stage == "tuning" else "runs"
        before = f", {self._ended} of them done before" if self._ended else ""
        _say(self._console, f"{len(runs)} {word}{before}, {self.jobs} at a time.")
        if self._console.is_terminal and waiting:
            self._bar = Progress(
                TextColumn("{task.description}", markup=False), BarColumn(bar_width=30), MofNCompleteColumn(),
                TextColumn("{task.fields[status]}", markup=False), console=self._console,
            )  # fmt: skip
            self._line = self._bar.add_task(stage, total=len(runs), completed=self._ended, status="")
            self._bar.start()

    def progressed(self, wanted: WantedRun, event: dict[str, Any]) -> None:
        """Count rounds; the first event of a run that is gone on with says where it stands."""
        number = int(event["round"])
        if wanted.name in self._seen:
            self._rounds += number - self._seen[wanted.name]
            self._left -= number - self._seen[wanted.name]
        else:
            self._left -= number
        self._seen[wanted.name] = number
        if self._bar is not None and self._line is not None:
            status = f"{wanted.name} round {number}/{event['rounds']}  {self._time_left()}"
            self._bar.update(self._line, status=status)

    def ended(self, wanted: WantedRun, reason: str | None) -> None:
        """Done or failed."""
        self._ended += 1
        self._left -= wanted.config.federation.rounds - self._seen.get(wanted.name, 0)  # one that failed
        self._seen[wanted.name] = wanted.config.federation.rounds
        status = "done" if reason is None else f"failed: {reason}"
        if self._bar is not None and self._line is not None:
            self._bar.update(self._line, completed=self._ended, status=f"{wanted.name} {status}  {self._time_left()}")
        else:
            _say(
                self._console, f"{self._stage} {self._ended}/{self._runs}: {wanted.name} {status}  {self._time_left()}"
            )

    def stop(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _time_left(self) -> str:
        if not self._rounds or self._left <= 0:
            return ""
        seconds = round((time.perf_counter() - self._started) / self._rounds * self._left)
        return f"left {seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def read_spec_arguments(arguments: Sequence[str]) -> tuple[Path, list[str]]:
    """The spec file and the overrides of its base. Raises InputError unless there is exactly one file."""
    files, settings = split_arguments(arguments)
    if len(files) != 1:
        given = f", not {', '.join(files)}" if files else ""
        raise InputError(f"Give one file that says what to compare{given}; see experiments/ for examples.")
    return Path(files[0]), settings


def _say(console: Console, text: str) -> None:
    """Text as it is: neither wrapped, which would break paths and commands, nor coloured."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)
