"""Flower's server process: goes on with the run in the directory that the run configuration names."""

from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Raises what stops the run; Flower then marks it as failed."""
    from rich.console import Console

    from fibecfed.cli.progress import RunProgress
    from fibecfed.over_machines import serve

    console = Console(width=120, soft_wrap=True, force_terminal=False)
    serve(grid, Path(str(context.run_config["out"])), [RunProgress(console)], report=_say)


def _say(line: str) -> None:
    print(line, flush=True)
