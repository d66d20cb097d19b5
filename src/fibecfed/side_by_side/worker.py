"""One run in a process of its own, which tells the parent about its progress."""

import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

from fibecfed.callbacks import Callback, Record
from fibecfed.commands import at_a_shell
from fibecfed.config import build_config
from fibecfed.errors import FibecFedError, in_sentences
from fibecfed.federation import ServerState, StageDone
from fibecfed.results import score_of
from fibecfed.runs.run import resume, run
from fibecfed.runtime import Experiment
from fibecfed.training import use_cores


class _Teller(Callback):
    """A callback that sends an event after each stage."""

    def __init__(self, parent: Connection) -> None:
        self._parent = parent
        self._rounds = 0

    def started(self, experiment: Experiment, state: ServerState, records: Sequence[Record]) -> None:
        self._rounds = experiment.config.federation.rounds
        self._tell(state, None, None)

    def stage_done(self, done: StageDone, record: Record | None) -> bool:
        self._tell(done.state, done.loss, record)
        return False

    def _tell(self, state: ServerState, loss: float | None, record: Record | None) -> None:
        self._parent.send(
            {
                "round": state.round,
                "rounds": self._rounds,
                "loss": loss,
                "megabytes": (state.costs.bytes_up + state.costs.bytes_down) / 1e6,
                "score": None if record is None else score_of(record, "global"),
            }
        )


def carry_out(order: Mapping[str, Any], parent: Connection) -> None:
    """Run or resume what ``order`` says; ends with the exit code of `fibecfed run`, its error told before."""
    use_cores(order["cores"])
    try:
        with at_a_shell(), in_sentences():
            if order["resume"]:
                resume(order["directory"], [_Teller(parent)], progress=False)
            else:
                run(build_config(order["config"]), order["directory"], callbacks=[_Teller(parent)], progress=False)
    except FibecFedError as error:
        parent.send({"error": str(error)})
        sys.exit(error.exit_code)


def settle(log: str, parent: Connection) -> None:
    """Make a process this run's own: what it prints goes to the log, Ctrl-C to the parent, and it ends with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(file, stream)
    threading.Thread(target=_end_with_parent, args=(parent,), daemon=True).start()


def _end_with_parent(parent: Connection) -> None:
    """The parent never sends; its end of the pipe closes when it is gone, and nobody would read the result then."""
    try:
        parent.recv()
    except (EOFError, OSError):
        os._exit(1)
