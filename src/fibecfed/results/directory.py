"""The directory of a run: what lies where, written so that a crash never leaves a half file."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fibecfed.commands import advice, going_on
from fibecfed.config import Config, load_config, to_yaml
from fibecfed.errors import InputError
from fibecfed.federation import DiskStore, ServerState, Undecodable, write_atomically


def device_states(path: Path, settings: str) -> DiskStore:
    """The states of simulated devices of the run in ``path``, keyed by the text of its config.yaml.

    Comments do not count, but the text does, and not a hash of the settings it stands for: that would change with
    every new setting of a later version, and the states would look like another run's.
    """
    lines = [line for line in settings.splitlines() if not line.startswith("#")]
    return DiskStore(path / "devices", hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16])


class RunDirectory:
    """config.yaml, metrics.jsonl, summary.json, partition.json, checkpoint, adapter folders, card and plot."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @staticmethod
    def create(path: Path, config: Config, header: str, force: bool) -> "RunDirectory":
        """A fresh directory holding config.yaml.

        Raises InputError if the path exists, unless ``force`` is given and it is an earlier run or empty.
        """
        if path.exists():
            if not path.is_dir():
                raise InputError(f"'{path}' is a file; {advice('--out', 'out')} must name a directory.")
            earlier = (path / "config.yaml").is_file()
            if any(path.iterdir()) and not force:
                way_out = f"go on with it ({going_on(path)}), or replace it ({advice('--force', 'force=True')})"
                another = f"use another {advice('--out', 'out')}"
                raise InputError(f"'{path}' already exists; {way_out if earlier else another}.")
            if any(path.iterdir()) and not earlier:
                raise InputError(
                    f"'{path}' holds something other than a run; {advice('--force', 'force=True')} will not delete it. "
                    f"Use another {advice('--out', 'out')}."
                )
            shutil.rmtree(path)
        path.mkdir(parents=True)
        write_atomically(path / "config.yaml", to_yaml(config, header).encode())
        return RunDirectory(path)

    @staticmethod
    def open(path: Path) -> "RunDirectory":
        """An existing run's directory. Raises InputError if it is none."""
        if not (path / "config.yaml").is_file():
            raise InputError(f"'{path}' is not the directory of a run (it has no config.yaml).")
        return RunDirectory(path)

    def config(self) -> Config:
        """The configuration the run was started with."""
        return load_config(self.path / "config.yaml")

    def states(self) -> DiskStore:
        """Where simulated devices keep their states."""
        text = (self.path / "config.yaml").read_text(encoding="utf-8")
        return device_states(self.path, text)

    @property
    def adapter(self) -> Path:
        """The server's adapter."""
        return self.path / "adapter"

    def device_adapter(self, device: int | str) -> Path:
        """One device's own adapter."""
        return self.path / "adapters" / str(device)

    def write_text(self, name: str, text: str) -> None:
        """A text file, atomically."""
        write_atomically(self.path / name, text.encode())

    def write_bytes(self, name: str, data: bytes) -> None:
        """A binary file, atomically."""
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
        return self.path / "name.json"

    def metrics(self) -> list[dict[str, Any]]:
        """The evaluations so far."""
        path = self.path / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []

    def summary(self) -> dict[str, Any] | None:
        """summary.json; None while the run has not ended."""
        path = self.path / "summary.json"
        return dict(json.loads(path.read_text())) if path.is_file() else None

    def save_checkpoint(self, state: ServerState, extra: Mapping[str, Any]) -> None:
        """Replace the checkpoint by this state."""
        write_atomically(self.path / "checkpoint.safetensors", state.pack(extra))

    def load_checkpoint(self) -> tuple[ServerState, dict[str, Any]] | None:
        """The last state; None before the first. Raises InputError if the file is broken."""
        path = self.path / "checkpoint.safetensors"
        if not path.is_file():
            return None
        try:
            return ServerState.unpack(path.read_bytes())
        except (OSError, Undecodable) as error:
            raise InputError(f"'{path}' cannot be read: {error}.") from None

    def replace_folder(self, target: Path) -> "_Replacement":
        """A context that yields an empty folder and puts it in the place of ``target`` when all went well."""
        return _Replacement(target)


class _Replacement:
    def __init__(self, target: Path) -> None:
        self._target = target
        self._folder = target.with_name(f".{target.name}.{os.getpid()}.tmp")

    def __enter__(self) -> Path:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        return self._folder

    def __exit__(self, kind: object, *details: object) -> None:
        if kind is None:
            shutil.rmtree(self._target, ignore_errors=True)
            os.replace(self._folder, self._target)
        else:
            shutil.rmtree(self._folder, ignore_errors=True)
