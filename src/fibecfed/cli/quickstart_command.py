"""What `quickstart` shows: who holds what, the runs as they go, and a table with how to read it."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from fibecfed.cli.tables import partition_table
from fibecfed.commands import command_line
from fibecfed.data import deal, load_splits
from fibecfed.errors import RunFailed
from fibecfed.quickstart import (
    Findings,
    Plan,
    begin,
    check_same_data,
    example_message,
    findings,
    headings,
    plan,
    quickstart_page,
)
from fibecfed.report import leave_report, write_page
from fibecfed.runtime import assemble
from fibecfed.side_by_side import WantedRun, run_side_by_side
from fibecfed.training import cores_here


def usual_jobs() -> int:
    """Two runs side by side, where this process may use two cores."""
    return min(2, cores_here())


def quick_start(overrides: Sequence[str], out: Path, force: bool, jobs: int, console: Console) -> None:
    """Run every method that is not done yet, print and write the table.

    Raises InputError before anything is run or written if data, model or settings cannot be used, RunFailed after
    the others have ended if a run failed.
    """
    planned = plan(out, overrides, force)
    config = planned.config
    splits = load_splits(config)
    check_same_data(planned, splits)
    dealt = deal(config, splits)
    message = example_message(dealt.held_out.texts)
    if not all(wanted.done for wanted in planned.runs):
        assemble(config)  # finds what a process would stumble over, before anything is written
    begin(planned, force)
    _say(console, f"Data: {splits.origin}.")
    console.print(
        partition_table(dealt.devices, dealt.train.labels, splits.train.label_names, dealt.habits), highlight=False
    )
    _say(console, _intention(planned, jobs))
    progress = QuickstartProgress(console, planned)
    started = time.perf_counter()
    again = command_line("quickstart", *overrides, "--out", out)
    try:
        failures = run_side_by_side(planned.runs, jobs, progress)
    except KeyboardInterrupt:
        progress.stop()
        _say(console, f"What was done is kept; go on with: {again}")
        raise
    finally:
        progress.stop()
    seconds = round(time.perf_counter() - started)
    _say(console, f"{len(planned.runs) - len(failures)} of {len(planned.runs)} methods done, {seconds} s.")
    found = findings(planned)
    if found.summaries:
        console.print(results_table(found))
    if failures:
        reasons = "; ".join(f"{name}: {reason.rstrip('.')}" for name, reason in failures.items())
        raise RunFailed(f"{reasons}. The other runs are kept; to try again: {again}")
    found.write(message)
    out = planned.out
    leave_report(lambda: write_page(quickstart_page(found), out), out, lambda text: _say(console, text))
    _explain(found, message, console)


def _intention(planned: Plan, jobs: int) -> str:
    federation = planned.config.federation
    beside = f"{jobs} side by side" if jobs > 1 else "one after another"
    return (
        f"{len(planned.runs)} methods on the same data, split and seed, {beside}: {federation.rounds} rounds, "
        f"{federation.sampled} of {federation.devices} devices a round."
    )


class QuickstartProgress:
    """A line for each run: live on a terminal, one after each stage elsewhere."""

    def __init__(self, console: Console, planned: Plan) -> None:
        self._console = console
        self._bar: Progress | None = None
        self._lines: dict[str, TaskID] = {}
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(bar_width=20), TextColumn("round"), MofNCompleteColumn(),
                TimeElapsedColumn(), TextColumn("{task.fields[status]}", markup=False), console=console,
            )  # fmt: skip
            self._bar.start()
        for wanted in planned.runs:
            if self._bar is not None:
                rounds = wanted.config.federation.rounds
                self._lines[wanted.name] = self._bar.add_task(
                    wanted.name, start=False, total=rounds, completed=rounds if wanted.done else 0,
                    status="done before" if wanted.done else "waits",
                )  # fmt: skip
            elif wanted.done:
                _say(console, f"{wanted.name}: done before")

    def progressed(self, wanted: WantedRun, event: dict[str, Any]) -> None:
        """After each stage."""
        score, loss = event["score"], event["loss"]
        parts = [f"loss {loss:.3f}"] if loss is not None else []
        parts += [f"global {score:.3f}"] if score is not None else []
        status = ", ".join([*parts, f"{event['megabytes']:.1f} MB"]) if parts else "started"
        if self._bar is not None:
            self._bar.start_task(self._lines[wanted.name])
            self._bar.update(self._lines[wanted.name], completed=event["round"], status=status)
        else:
            _say(self._console, f"{wanted.name}: round {event['round']}/{event['rounds']}, {status}")

    def ended(self, wanted: WantedRun, reason: str | None) -> None:
        """Done or failed."""
        status = "done" if reason is None else "failed"
        if self._bar is not None:
            self._bar.update(self._lines[wanted.name], status=status)
            self._bar.stop_task(self._lines[wanted.name])
        else:
            _say(self._console, f"{wanted.name}: {status}")

    def stop(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()


def results_table(found: Findings) -> Table:
    """A line for each method."""
    config = found.plan.config
    table = Table(title=f"{config.dataset}: what {len(found.rows)} methods reach, and what they cost")
    table.add_column("method", no_wrap=True)
    for name in headings(config):
        table.add_column(name.replace(" ", "\n"), justify="right", no_wrap=True)
    for r in found.rows:
        table.add_row(r.method, *r.numbers())
    return table


def _explain(found: Findings, message: str, console: Console) -> None:
    """What the methods are, how to read the table, where to look and what to try."""
    console.print("The methods", style="bold")
    console.print(_hanging([(r.method, f"trains {r.trains}; sends {r.sends}") for r in found.rows]))
    console.print("How to read it", style="bold")
    console.print(_hanging([("-", sentence) for sentence in found.reading()]))
    console.print("Where to look", style="bold")
    for path, what in found.places():
        _say(console, f"  {path}\n      {what}")
    console.print("What to try next", style="bold")
    for command, what in found.next_steps(message):
        _say(console, f"  {command}\n      {what}")


def _hanging(items: Sequence[tuple[str, str]]) -> Table:
    """Two columns without lines: long text keeps its indent."""
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(width=1)
    grid.add_column(no_wrap=True)
    grid.add_column()
    for name, text in items:
        grid.add_row("", Text(name), Text(text))
    return grid


def _say(console: Console, text: str) -> None:
    """Text as it is: neither wrapped, which would break paths and commands, nor coloured."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)
