"""A run whose devices are on machines of their own: what Flower's server process does."""

import dataclasses
import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fibecfed.callbacks import Callback, Record
from fibecfed.config import Config, load_config, to_dict, to_yaml
from fibecfed.errors import FibecFedError, InputError
from fibecfed.experiment import RunResult, resume
from fibecfed.federation import DeviceStore, PhaseDone
from fibecfed.results import RunDirectory

if TYPE_CHECKING:
    from flwr.serverapp import Grid

    from fibecfed.runtime.flower.server import ServerExperiment
    from fibecfed.runtime.flower.traffic import Traffic

_CHANGEABLE = (
    "federation.rounds", "federation.deadline_seconds", "federation.minimum_replies", "runtime.threads",
    "runtime.device",
)  # fmt: skip
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
    from fibecfed.runtime.flower.locks import announced

    directory = RunDirectory.open(out)
    home = os.environ.get("FLWR_HOME")  # Flower's simulation has no server, and no home
    with ExitStack() as stack:
        others = stack.enter_context(announced(runs_folder(Path(home)), str(out.resolve()))) if home else []
        if str(out.resolve()) in others:
            raise InputError(f"The run in '{out}' is going on already, in another process of this server.")
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
    from fibecfed.runtime.flower.server import assemble_server
    from fibecfed.runtime.flower.traffic import Traffic

    out = directory.path
    traffic = Traffic(_read(directory.path / TRAFFIC))
    (out / STOPPED).unlink(missing_ok=True)
    made: list[ServerExperiment] = []

    def assemble(config: Config, store: DeviceStore) -> "ServerExperiment":
        made.append(assemble_server(config, _name(directory), grid, report, poll_seconds, traffic))
        return made[0]

    try:
        result = resume(out, [*callbacks, _Counting(directory, traffic)], assemble)
        for failure in made[0].save_on_devices(result.state):
            report(f"Device {failure.device} has not saved its adapter: {failure.reason}")
        directory.write_json(TRAFFIC, traffic.content())
        summary = {**result.summary, "traffic": traffic.content()}
        directory.write_json("summary.json", summary)
    except FibecFedError as error:
        directory.write_json(STOPPED, {"reason": str(error), "exit_code": error.exit_code})
        raise
    return dataclasses.replace(result, summary=summary)


class _Counting(Callback):
    """Keeps the count of bytes, for a run that is stopped and goes on."""

    def __init__(self, directory: RunDirectory, traffic: "Traffic") -> None:
        self._directory = directory
        self._traffic = traffic

    def phase_done(self, done: PhaseDone, record: Record | None) -> bool:
        self._directory.write_json(TRAFFIC, self._traffic.content())
        return False


def _read(path: Path) -> dict[str, Any] | None:
    return dict(json.loads(path.read_text("utf-8"))) if path.is_file() else None


def _name(directory: RunDirectory) -> str:
    """Made when a run begins, so that devices never take the states of one run for another's."""
    if not directory.name_file.is_file():
        directory.write_json(directory.name_file.name, {"run": secrets.token_hex(8)})
    return str(json.loads(directory.name_file.read_text())["run"])


def may_change(key: str) -> bool:
    """Whether a stopped run can go on with another value of a setting: it decides how long and how well it is watched,
    and not what a round comes to."""
    return key in _CHANGEABLE or key.startswith("evaluation.")


def change_settings(directory: RunDirectory, overrides: Sequence[str]) -> Config:
    """Let the run in a directory go on with other settings. Raises InputError for those that must stay."""
    before, after = directory.config(), load_config(directory.path / "config.yaml", overrides)
    old, new = dict(_dotted(to_dict(before))), dict(_dotted(to_dict(after)))
    changed = [key for key in new if new[key] != old[key]]
    fixed = [key for key in changed if not may_change(key)]
    if fixed:
        raise InputError(
            f"{fixed[0]} decides the results: a run that was begun with {old[fixed[0]]!r} cannot go on with "
            f"{new[fixed[0]]!r}. {', '.join(_CHANGEABLE)} and evaluation.* may change; for all else begin another run."
        )
    loaded = directory.load_checkpoint()
    if loaded is not None and loaded[0].round > after.federation.rounds:
        raise InputError(
            f"{loaded[0].round} rounds are done already; federation.rounds={after.federation.rounds} cannot undo them."
        )
    if changed:
        path = directory.path / "config.yaml"
        header = "\n".join(
            line.removeprefix("#").strip() for line in path.read_text("utf-8").splitlines() if line.startswith("#")
        )
        directory.write_text(path.name, to_yaml(after, header))
    return after


def _dotted(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
