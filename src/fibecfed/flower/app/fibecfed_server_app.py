"""Flower's server process: goes on with the run in the directory that the run configuration names."""

import logging
import os
import threading
import time
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Raises what stops the run; Flower then marks it as failed."""
    from fibecfed.callbacks import RunProgress
    from fibecfed.flower.over_machines import serve
    from fibecfed.screen import log_console

    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    logging.getLogger("flwr").addFilter(_without_traceback)
    serve(grid, Path(str(context.run_config["out"])), [RunProgress(log_console())], report=_say)


def _without_traceback(record: logging.LogRecord) -> bool:
    """A stop that a sentence explains is no fault of the program."""
    from fibecfed.errors import FibecFedError

    error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
    if isinstance(error, FibecFedError):
        record.msg, record.args, record.exc_info = f"The run stopped: {error}", (), None
    return True


def _end_with_parent(parent: int) -> None:
    """Flower's server may be killed; this process would wait for it for ever, beside the one that goes on."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def _say(line: str) -> None:
    print(line, flush=True)
