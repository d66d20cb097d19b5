"""Flower's server process: goes on with the run in the directory that the run configuration names."""

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
    from fibecfed.over_machines import serve
    from fibecfed.screen import log_console

    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    serve(grid, Path(str(context.run_config["out"])), [RunProgress(log_console())], report=_say)


def _end_with_parent(parent: int) -> None:
    """Flower's server may be killed; this process would wait for it for ever, beside the one that goes on."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def _say(line: str) -> None:
    print(line, flush=True)
