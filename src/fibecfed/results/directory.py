"""The directory of a run: what lies where, written so that a crash never leaves a half file."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from fibecfed.commands import advice, going_on
from fibecfed.config import Config, expanded, load_config, refusal, to_yaml
from fibecfed.data import target_difference, target_names
from fibecfed.errors import InputError, RunFailed
from fibecfed.federation import DiskStore, ServerState, Undecodable, write_atomically
from fibecfed.results.fingerprint import FINGERPRINT_FILE, Fingerprint
from fibecfed.results.summary import in_todays_form
from fibecfed.tasks import Task

REPORT_FILE, EVALUATION_FILE = "report.html", "evaluation.json"
CONFIG_FILE, PARTITION_FILE, NAME_FILE, CHECKPOINT_FILE, OWN_MODELS_FILE = (
    "config.yaml", "partition.json", "name.json", "checkpoint.safetensors", "own_models.safetensors",
)  # fmt: skip
_OF_A_RUN = (
    CONFIG_FILE, FINGERPRINT_FILE, PARTITION_FILE, NAME_FILE, CHECKPOINT_FILE, OWN_MODELS_FILE, "metrics.jsonl",
    "summary.json", EVALUATION_FILE, REPORT_FILE, "method.json", "method.png", "curves.png", "README.md",
    "stopped.json", "changes.json", "traffic.json", "adapter", "adapters", "devices",
)  # fmt: skip
_ONLY_OF_RUNS = {name for name in _OF_A_RUN if "." in name} - {"README.md"}
_LEFTOVER = re.compile(r"\..+\.\d+\.tmp")  # what write_atomically and replace_folder make and a killed process leaves


def device_states(path: Path, settings: str) -> DiskStore:
    """The states of simulated devices of the run that begins in ``path`` with this text of its config.yaml.

    A run that goes on with other settings keeps its mark (fingerprint.json). Comments do not count, but the text does,
    and not a hash of the settings it stands for: that would change with every new setting of a later version.
    """
    return DiskStore(path / "devices", _mark(settings), _StateNotWritten)


def _mark(settings: str) -> str:
    lines = [line for line in settings.splitlines() if not line.startswith("#")]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


class _StateNotWritten(RunFailed):
    """A simulated device's state, on the disk that the whole run is on."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"Of a device: {reason}.")


class RunDirectory:
    """config.yaml, metrics.jsonl, summary.json, partition.json, checkpoint, adapter folders, card and plot."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @staticmethod
    def check(path: Path, force: bool) -> None:
        """Find whether a run may begin in ``path`` before anything costly is loaded; writes nothing.

        A folder that is empty, but for hidden files and lost+found, may be one. Raises InputError for anything else
        that exists, unless ``force`` is given and it is an earlier run, and where nothing can be written.
        """
        wanted = advice("--out", "out")
        try:
            if path.exists() and not path.is_dir():
                raise InputError(f"'{path}' is a file; {wanted} must name a directory.")
            existing = next(p for p in (path, *path.absolute().parents) if p.exists())
            if not existing.is_dir():
                raise InputError(f"'{existing}' is a file, so '{path}' cannot be made; use another {wanted}.")
            if path.is_symlink() and not path.exists():
                raise InputError(
                    f"'{path}' is a link to '{path.readlink()}', which does not exist; use another {wanted}."
                )
            present = _present(path) if path.is_dir() else []
        except OSError as error:
            raise InputError(f"'{path}' cannot be used as {wanted}: {error.strerror}.") from None
        if not os.access(existing, os.W_OK | os.X_OK):
            raise InputError(f"Nothing can be written in '{existing}', so '{path}' cannot be used as {wanted}.")
        if present and not force:
            way_out = f"go on with it ({going_on(path)}), or replace it ({advice('--force', 'force=True')})"
            raise InputError(f"'{path}' already exists; {way_out if _is_run(path) else f'use another {wanted}'}.")
        if present and not _is_run(path):
            raise InputError(
                f"'{path}' holds something other than a run; {advice('--force', 'force=True')} will not delete it. "
                f"Use another {wanted}."
            )

    @staticmethod
    def create(path: Path, config: Config, header: str, force: bool) -> "RunDirectory":
        """A fresh directory holding config.yaml; the caller is its ``only_writer``.

        With ``force`` an earlier run is deleted, once config.yaml is written in its place; files that are not a run's
        stay. Raises InputError as ``check`` does.
        """
        RunDirectory.check(path, force)
        directory = RunDirectory(path)
        path.mkdir(parents=True, exist_ok=True)
        earlier = path / f".earlier.{os.getpid()}.tmp"
        moved: list[Path] = []
        try:
            for name in _OF_A_RUN:
                if os.path.lexists(path / name):
                    earlier.mkdir(exist_ok=True)
                    (path / name).rename(earlier / name)
                    moved.append(path / name)
            text = to_yaml(config, header)
            directory.write_text(CONFIG_FILE, text)
            directory.write_fingerprint(Fingerprint.beginning(config, _mark(text)))
        except BaseException:
            for name in (CONFIG_FILE, FINGERPRINT_FILE):
                (path / name).unlink(missing_ok=True)
            for old in moved:
                (earlier / old.name).rename(old)
            if moved:
                earlier.rmdir()
            raise
        directory.clear_leftovers()
        return directory

    @staticmethod
    def open(path: Path) -> "RunDirectory":
        """An existing run's directory. Raises InputError if it is none."""
        path = expanded(path)
        if not (path / CONFIG_FILE).is_file():
            raise InputError(f"'{path}' is not the directory of a run (it has no config.yaml).")
        return RunDirectory(path)

    def config(self) -> Config:
        """What config.yaml says."""
        return load_config(self.path / CONFIG_FILE)

    def checked_config(self) -> Config:
        """The configuration, if what decides results in it is what the run began with. Raises InputError."""
        config, kept = self.config(), self.fingerprint()
        why = refusal(kept.changes(config)) if kept is not None else None
        if why is not None:
            raise InputError(f"'{self.path / CONFIG_FILE}' is not what this run was trained with: {why}")
        return config

    def fingerprint(self) -> Fingerprint | None:
        """What the run began with; None where an earlier version wrote none. Raises InputError if it is broken."""
        return Fingerprint.read(self.path)

    def write_fingerprint(self, fingerprint: Fingerprint) -> None:
        """fingerprint.json."""
        self.write_json(FINGERPRINT_FILE, fingerprint.to_content())

    def check_outputs(self, names: Sequence[str], task: type[Task]) -> None:
        """Raise InputError if an adapter's output names are not those that the run was trained with."""
        kept = self.fingerprint()
        if kept is not None and kept.found is not None:
            differ = target_difference(task.of(target_names(kept.found["data"])).output_names, names)
            if differ is not None:
                raise InputError(f"The task.json of an adapter in '{self.path}' was changed: {differ}.")

    def output_names(self) -> list[str] | None:
        """The output names of the saved adapter (task.json), else of the run's start; None where neither is known."""
        for path, key in ((self.adapter / "task.json", "labels"), (self.path / PARTITION_FILE, "labels")):
            if path.is_file():
                try:
                    return list(json.loads(path.read_text(encoding="utf-8"))[key])
                except (ValueError, KeyError, TypeError) as error:
                    raise InputError(f"'{path}' cannot be read ({error!r}).") from None
        return None

    def mark(self) -> str:
        """What the states of this run's devices are marked with."""
        kept = self.fingerprint()
        return kept.states if kept is not None else _mark((self.path / CONFIG_FILE).read_text(encoding="utf-8"))

    def states(self) -> DiskStore:
        """Where simulated devices keep their states."""
        return DiskStore(self.path / "devices", self.mark(), _StateNotWritten)

    @property
    def adapter(self) -> Path:
        """The server's adapter."""
        return self.path / "adapter"

    def device_adapter(self, device: int | str) -> Path:
        """One device's own adapter."""
        return self.path / "adapters" / str(device)

    def write_text(self, name: str, text: str) -> None:
        """A text file, atomically."""
        self.write_bytes(name, text.encode())

    def write_bytes(self, name: str, data: bytes) -> None:
        """A file, atomically. Raises RunFailed where the disk is full or nothing can be written."""
        with _written(self.path / name):
            write_atomically(self.path / name, data)

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """A JSON file, atomically."""
        self.write_text(name, json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    def write_metrics(self, records: Iterable[Mapping[str, Any]]) -> None:
        """metrics.jsonl, whole: a killed run may have left a line that its checkpoint does not know."""
        self.write_text("metrics.jsonl", "".join(json.dumps(dict(r)) + "\n" for r in records))

    @property
    def name_file(self) -> Path:
        """Where a run over machines keeps the name by which its devices know it; other runs have no such file."""
        return self.path / NAME_FILE

    def metrics(self) -> list[dict[str, Any]]:
        """The evaluations so far."""
        path = self.path / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []

    def summary(self) -> dict[str, Any] | None:
        """summary.json; None while the run has not ended."""
        path = self.path / "summary.json"
        return in_todays_form(json.loads(path.read_text(encoding="utf-8")), self.metrics()) if path.is_file() else None

    def content(self, name: str) -> dict[str, Any] | None:
        """What a JSON file holds; None where the run has none. Raises InputError if it is broken."""
        path = self.path / name
        try:
            return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None
        except (ValueError, TypeError) as error:
            raise InputError(f"'{path}' cannot be read ({error}).") from None

    def group_names(self) -> list[str]:
        """What the groups of partition.json stand for; empty where they have no names."""
        held = self.content(PARTITION_FILE) or {}
        return list(held.get("groups") or held.get("labels") or ())

    def unfinished(self) -> None:
        """Take summary.json away: the run goes on."""
        (self.path / "summary.json").unlink(missing_ok=True)

    def save_checkpoint(self, state: ServerState, extra: Mapping[str, Any]) -> None:
        """Replace the checkpoint by this state. Raises RunFailed as ``write_bytes`` does."""
        self.write_bytes(CHECKPOINT_FILE, state.pack(extra))

    def load_checkpoint(self) -> tuple[ServerState, dict[str, Any]] | None:
        """The last state; None before the first. Raises InputError if the file is broken."""
        path = self.path / CHECKPOINT_FILE
        if not path.is_file():
            return None
        try:
            return ServerState.unpack(path.read_bytes())
        except (OSError, Undecodable) as error:
            raise InputError(f"'{path}' cannot be read: {error}.") from None

    @contextmanager
    def replace_folder(self, target: Path) -> Iterator[Path]:
        """An empty folder that takes the place of ``target`` if all goes well. Raises RunFailed as ``write_bytes``."""
        folder = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            with _written(target):
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
                yield folder
                shutil.rmtree(target, ignore_errors=True)
                folder.replace(target)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def remove(self) -> None:
        """Delete what a run writes, and nothing else; for the ``only_writer``."""
        for name in _OF_A_RUN:
            path = self.path / name
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)

    def clear_leftovers(self) -> None:
        """Delete what a killed process was writing; for the ``only_writer``."""
        devices = self.path / "devices"
        places = (self.path, self.path / "adapters", *devices.glob("*/"), *devices.glob("*/*/"))
        for place in places:
            for path in place.glob(".*.tmp") if place.is_dir() else ():
                if _LEFTOVER.fullmatch(path.name):
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


@contextmanager
def _written(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RunFailed(f"'{path}' could not be written: {reason}.") from None


def _present(path: Path) -> list[str]:
    """What lies in a folder, but for hidden files and what a file system puts in its root."""
    return [p.name for p in path.iterdir() if not p.name.startswith(".") and p.name != "lost+found"]


def _is_run(path: Path) -> bool:
    """A config.yaml may be a user's own, beside the user's own files."""
    if not (path / CONFIG_FILE).is_file():
        return False
    marks = (FINGERPRINT_FILE, PARTITION_FILE, NAME_FILE)
    return any((path / name).is_file() for name in marks) or set(_present(path)) <= _ONLY_OF_RUNS
