"""A run whose devices are on machines of their own: what Flower's server process does."""

import json
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fibecfed.callbacks import Callback
from fibecfed.config import Config
from fibecfed.errors import FibecFedError, in_sentences
from fibecfed.experiment import RunResult, resume
from fibecfed.federation import DeviceStore
from fibecfed.results import RunDirectory, only_writer

if TYPE_CHECKING:
    from flwr.serverapp import Grid

    from fibecfed.runtime.flower.server import ServerExperiment

STOPPED = "stopped.json"  # why a run ended early, for the command that waits for it


def serve(
    grid: "Grid",
    out: Path,
    callbacks: list[Callback],
    report: Callable[[str], None] = print,
    poll_seconds: float = 0.5,
    changes: Mapping[str, Any] | None = None,
) -> RunResult:
    """Begin or go on with the run whose config.yaml lies in ``out``, with the devices that Flower knows.

    ``changes`` are nested settings to go on with, as ``resume`` takes them. When it ends every device keeps an adapter
    of its own. Raises what ``resume`` raises; the reason is written to stopped.json, too.
    """
    from fibecfed.runtime.flower.server import assemble_server

    directory = RunDirectory.open(out)
    made: list[ServerExperiment] = []

    def assemble(config: Config, store: DeviceStore) -> "ServerExperiment":
        made.append(assemble_server(config, _name(directory), grid, report, poll_seconds))
        return made[0]

    with only_writer(directory.path):  # before stopped.json, which belongs to the one process that writes there
        (directory.path / STOPPED).unlink(missing_ok=True)
        try:
            with in_sentences():
                result = resume(directory.path, callbacks, assemble, changes=changes, report=report, progress=False)
                for failure in made[0].save_on_devices(result.state):
                    report(f"Device {failure.device} has not saved its adapter: {failure.reason}")
        except FibecFedError as error:
            directory.write_json(STOPPED, {"reason": str(error), "exit_code": error.exit_code})
            raise
    return result


def _name(directory: RunDirectory) -> str:
    """Made when a run begins, so that devices never take the states of one run for another's."""
    if not directory.name_file.is_file():
        directory.write_json(directory.name_file.name, {"run": secrets.token_hex(8)})
    return str(json.loads(directory.name_file.read_text())["run"])
