"""Showing a run as it goes: a live line on a terminal, plain lines elsewhere."""

import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fibecfed.callbacks.protocol import Callback, Record
from fibecfed.federation import ServerState, StageDone
from fibecfed.results import score_of
from fibecfed.runtime import Experiment


class RunProgress(Callback):
    """A callback that prints round, devices, score, bytes and time left."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bar: Progress | None = None
        self._task: Any = None
        self._rounds = self._first = 0
        self._started = 0.0

    def started(self, experiment: Experiment, state: ServerState, records: Sequence[Record]) -> None:
        """Begin; after a resume the rounds already done are not counted into the speed."""
        self._rounds = experiment.config.federation.rounds
        self._first = state.round
        self._started = time.perf_counter()
        if self.console.is_terminal:
            self._bar = Progress(
                TextColumn("round"), MofNCompleteColumn(), BarColumn(bar_width=None),
                TextColumn("{task.fields[status]}", markup=False), TimeRemainingColumn(compact=True),
                console=self.console, expand=True,
            )  # fmt: skip
            self._task = self._bar.add_task("", total=self._rounds, completed=state.round, status="")
            self._bar.start()

    def stage_done(self, done: StageDone, record: Record | None) -> bool:
        """Update; never stops the run."""
        devices, score = _devices_and_bytes(done), _score(done, record)
        for failure in done.failures:
            self.console.print(
                f"round {done.round}: device {failure.device} left out: {failure.reason}",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )
        for device, why in done.states_lost:
            self.console.print(
                f"round {done.round}: device {device} starts afresh, the state it kept is {why}", highlight=False
            )
        if self._bar is not None:
            self._bar.update(self._task, completed=done.state.round, status=f"{devices}\n{score}")  # fits 80 columns
        else:
            parts = (self._heading(done), score, devices, self._left(done))
            self.console.print("  ".join(part for part in parts if part), highlight=False, soft_wrap=True)
        return False

    def ended(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()

    def _heading(self, done: StageDone) -> str:
        if done.stage.is_round:
            return f"round {done.state.round}/{self._rounds}"
        return f"{done.stage.name} before round {done.round}"

    def _left(self, done: StageDone) -> str:
        rounds = done.state.round - self._first
        if not rounds or done.state.round >= self._rounds:
            return ""
        seconds = (time.perf_counter() - self._started) / rounds * (self._rounds - done.state.round)
        return f"left {int(seconds) // 60}:{int(seconds) % 60:02d}"


def _score(done: StageDone, record: Record | None) -> str:
    parts = []
    if record is not None:
        parts.append(f"global {score_of(record, 'global'):.3f} personalized {score_of(record, 'personalized'):.3f}")
    if done.loss is not None:
        parts.append(f"loss {done.loss:.3f}")
    return "  ".join(parts)


def _devices_and_bytes(done: StageDone) -> str:
    """How many devices this exchange asked, or that answered of them, and what the run has sent so far."""
    costs, asked = done.state.costs, len(done.cohort)
    failed = len({failure.device for failure in done.failures})
    devices = f"{asked - failed} of {asked}" if failed else str(asked)
    return f"{devices} device{'s' * (asked != 1)}  {(costs.bytes_up + costs.bytes_down) / 1e6:.1f} MB"
