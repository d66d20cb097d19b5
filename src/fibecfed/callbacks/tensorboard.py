"""Curves in TensorBoard (extra ``tensorboard``)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fibecfed.callbacks.protocol import Callback, Record
from fibecfed.commands import extra_install
from fibecfed.errors import InputError
from fibecfed.federation import ServerState, StageDone
from fibecfed.runtime import Experiment


def numbers(record: Record) -> dict[str, float]:
    """The numbers of an evaluation, without its round, which is the step."""
    return {key: value for key, value in record.items() if key != "round" and isinstance(value, int | float)}


class TensorBoard(Callback):
    """Every number of an evaluation as a scalar over rounds. Raises InputError without the extra."""

    def __init__(self, directory: Path | str) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            install = extra_install("tensorboard")
            raise InputError(f"Writing for TensorBoard needs the extra `tensorboard`: {install}") from None
        self._make = SummaryWriter
        self._directory = str(directory)
        self._writer: Any = None

    def started(self, experiment: Experiment, state: ServerState, records: Sequence[Record]) -> None:
        """After a resume, what was written of later rounds no longer counts."""
        self._writer = self._make(self._directory, purge_step=state.round + 1 if state.round else None)

    def stage_done(self, done: StageDone, record: Record | None) -> bool:
        """Write; never stops the run."""
        for name, value in numbers(record or {}).items():
            self._writer.add_scalar(name, value, (record or {})["round"])
        return False

    def ended(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()
