"""Curves in Trackio's local database (extra ``trackio``); `trackio show` opens them."""

from collections.abc import Sequence
from typing import Any

from fibecfed.callbacks.protocol import Callback, Record
from fibecfed.callbacks.tensorboard import numbers
from fibecfed.commands import extra_install
from fibecfed.config import config_hash, to_dict
from fibecfed.errors import InputError
from fibecfed.federation import ServerState, StageDone
from fibecfed.runtime import Experiment


class Trackio(Callback):
    """Every number of an evaluation over rounds, and the configuration. Raises InputError without the extra.

    A run's name holds its configuration's hash: a resumed run goes on with the same curves. Nothing leaves the
    machine unless Trackio's own environment variables name a server.
    """

    def __init__(self, project: str) -> None:
        try:
            import trackio
        except ImportError:
            install = extra_install("trackio")
            raise InputError(f"Writing for Trackio needs the extra `trackio`: {install}") from None
        self._trackio = trackio
        self._project = project
        self._run: Any = None

    def started(self, experiment: Experiment, state: ServerState, records: Sequence[Record]) -> None:
        """Open the run."""
        config = experiment.config
        self._run = self._trackio.init(
            project=self._project,
            name=f"{config.method}-{config.dataset}-{config.seed}-{config_hash(config)[:8]}",
            config=to_dict(config),
            resume="allow" if state.round else "never",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def stage_done(self, done: StageDone, record: Record | None) -> bool:
        """Write; never stops the run."""
        if record is not None:
            self._run.log(numbers(record), step=record["round"])
        return False

    def ended(self) -> None:
        """Wait until all is written."""
        if self._run is not None:
            self._run.finish()
