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
    """A callback that prints round, score, bytes and time left."""

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
                console=self.console, expand=True,  # the bar has what words leave of 80 columns
            )  # fmt: skip
            self._task = self._bar.add_task("", total=self._rounds, completed=state.round, status="")
            self._bar.start()

    def stage_done(self, done: StageDone, record: Record | None) -> bool:
        """Update; never stops the run."""
        status = self._status(done, record)
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
            self._bar.update(self._task, completed=done.state.round, status=status)
        else:
            self.console.print(f"{self._heading(done)}  {status}  {self._left(done)}", highlight=False)
        return False

    def ended(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()

    def _heading(self, done: StageDone) -> str:
        if done.stage.is_round:
            return f"round {done.state.round}/{self._rounds}"
        return f"{done.stage.name} before round {done.round}"

    def _status(self, done: StageDone, record: Record | None) -> str:
        costs = done.state.costs
        parts = []
        if record is not None:
            parts.append(f"global {score_of(record, 'global'):.3f} personalized {score_of(record, 'personalized'):.3f}")
        if done.loss is not None:
            parts.append(f"loss {done.loss:.3f}")
        parts.append(f"{(costs.bytes_up + costs.bytes_down) / 1e6:.1f} MB")
        return "  ".join(parts)

    def _left(self, done: StageDone) -> str:
        rounds = done.state.round - self._first
        if not rounds or done.state.round >= self._rounds:
            return ""
        seconds = (time.perf_counter() - self._started) / rounds * (self._rounds - done.state.round)
        return f"left {int(seconds) // 60}:{int(seconds) % 60:02d}"
