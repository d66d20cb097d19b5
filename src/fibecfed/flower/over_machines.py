"""A run whose devices are on machines of their own: what Flower's server process does."""

import dataclasses
import json
import os
import secrets
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fibecfed.callbacks import Callback, Record
from fibecfed.config import Config
from fibecfed.errors import FibecFedError, in_sentences
from fibecfed.federation import DeviceStore, StageDone
from fibecfed.results import RunDirectory, only_writer
from fibecfed.runs.run import RunResult, resume
from fibecfed.runtime import Experiment

if TYPE_CHECKING:
    from flwr.serverapp import Grid

    from fibecfed.flower.server import DevicesElsewhere
    from fibecfed.flower.traffic import Traffic

CHANGES = "changes.json"  # settings, nested, that a run is to go on with
TRAFFIC = "traffic.json"  # bytes that crossed so far
STOPPED = "stopped.json"  # why a run ended early, for the command that waits for it


def serve(
    grid: "Grid",
    out: Path,
    callbacks: list[Callback],
    report: Callable[[str], None] = print,
    poll_seconds: float = 0.5,
) -> RunResult:
    """Begin or go on with the run whose config.yaml lies in ``out``, with the devices that Flower knows.

    When it ends every device keeps an adapter of its own. Other runs of the same server are said. Raises what
    ``resume`` raises; the reason is written to stopped.json, too.
    """
    from fibecfed.flower.locks import announced

    directory = RunDirectory.open(out)
    home = os.environ.get("FLWR_HOME")  # Flower's simulation has no server, and no home
    with ExitStack() as stack:
        others = stack.enter_context(announced(runs_folder(Path(home)), str(out.resolve()))) if home else []
        for other in others:
            report(
                f"Another run is going on on this server, in '{other}'. A device answers one request at a time: both "
                "take longer, and replies may miss federation.deadline_seconds."
            )
        return _serve(grid, directory, callbacks, report, poll_seconds)


def runs_folder(home: Path) -> Path:
    """Where the runs of a server say that they are going on; ``home`` is Flower's."""
    return home / "fibecfed-runs"


def _serve(
    grid: "Grid",
    directory: RunDirectory,
    callbacks: list[Callback],
    report: Callable[[str], None],
    poll_seconds: float,
) -> RunResult:
    from fibecfed.flower.server import assemble_server
    from fibecfed.flower.traffic import Traffic

    made: list[DevicesElsewhere] = []
    path, traffic = directory.path, Traffic(_read(directory.path / TRAFFIC))

    def assemble(config: Config, store: DeviceStore) -> Experiment:
        experiment, devices = assemble_server(config, _name(directory), grid, report, poll_seconds, traffic)
        made.append(devices)
        return experiment

    with only_writer(path):  # before stopped.json, which belongs to the one process that writes there
        (path / STOPPED).unlink(missing_ok=True)
        try:
            with in_sentences():
                watching, changes = [*callbacks, _Counting(directory, traffic)], _read(path / CHANGES)
                result = resume(path, watching, assemble, changes=changes, report=report, progress=False)
                for failure in made[0].save(result.state):
                    report(f"Device {failure.device} has not saved its adapter: {failure.reason}")
                summary = {**result.summary, "traffic": traffic.content()}
                directory.write_json(TRAFFIC, traffic.content())
                directory.write_json("summary.json", summary)
        except FibecFedError as error:
            directory.write_json(STOPPED, {"reason": str(error), "exit_code": error.exit_code})
            raise
        finally:
            (path / CHANGES).unlink(missing_ok=True)
    return dataclasses.replace(result, summary=summary)


class _Counting(Callback):
    """Keeps the count of bytes, for a run that is stopped and goes on."""

    def __init__(self, directory: RunDirectory, traffic: "Traffic") -> None:
        self._directory = directory
        self._traffic = traffic

    def stage_done(self, done: StageDone, record: Record | None) -> bool:
        self._directory.write_json(TRAFFIC, self._traffic.content())
        return False


def _read(path: Path) -> dict[str, Any] | None:
    return dict(json.loads(path.read_text("utf-8"))) if path.is_file() else None


def _name(directory: RunDirectory) -> str:
    """Made when a run begins, so that devices never take the states of one run for another's."""
    if not directory.name_file.is_file():
        directory.write_json(directory.name_file.name, {"run": secrets.token_hex(8)})
    return str(json.loads(directory.name_file.read_text(encoding="utf-8"))["run"])
