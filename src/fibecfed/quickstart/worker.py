"""One run in a process of its own: an order on standard input, JSON lines about its progress on standard output."""

import json
import os
import sys
import threading
from typing import Any, TextIO

from fibecfed.config import build_config
from fibecfed.errors import FibecFedError
from fibecfed.experiment import resume, run
from fibecfed.federation import PhaseDone, ServerState
from fibecfed.runtime import Experiment


class _JsonLines:
    """A callback that writes a line for each phase."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._rounds = 0

    def started(self, experiment: Experiment, state: ServerState) -> None:
        self._rounds = experiment.config.federation.rounds
        self._tell(state, None, None)

    def phase_done(self, done: PhaseDone, record: dict[str, Any] | None) -> bool:
        self._tell(done.state, done.loss, record)
        return False

    def _tell(self, state: ServerState, loss: float | None, record: dict[str, Any] | None) -> None:
        event = {
            "round": state.round,
            "rounds": self._rounds,
            "loss": loss,
            "megabytes": (state.costs.bytes_up + state.costs.bytes_down) / 1e6,
            "accuracy": None if record is None else record["accuracy_global"],
        }
        _write(self._file, event)


def _write(file: TextIO, event: dict[str, Any]) -> None:
    """One JSON line, at once."""
    file.write(json.dumps(event) + "\n")
    file.flush()


def _end_with_parent() -> None:
    """Standard input ends when the parent is gone; nobody would read the result then."""
    while os.read(0, 1024):
        pass
    os._exit(1)


def main() -> int:
    """Carry out the order; the exit code of `fibecfed run`."""
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not mix with the JSON lines
    order = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        if order["resume"]:
            resume(order["directory"], [_JsonLines(events)])
        else:
            run(build_config(order["config"]), order["directory"], callbacks=[_JsonLines(events)])
    except FibecFedError as error:
        _write(events, {"error": str(error)})
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
