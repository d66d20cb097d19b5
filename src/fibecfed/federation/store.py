"""Where device states live between rounds: in memory, or on the device's disk."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from fibecfed.errors import FibecFedError
from fibecfed.federation.codec import Undecodable, pack, unpack
from fibecfed.federation.state import DeviceState
from fibecfed.training import DeviceFailed


class StateLost(FibecFedError):
    """A state that was accepted is not there any more. ``reason``: "missing", "damaged" or "foreign"."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the device's state is {reason}")
        self.reason = reason


class DeviceStore(Protocol):
    """Keeps, for each device, the state last accepted by the server and the one offered after it."""

    def load(self, device: int, version: int) -> DeviceState | None:
        """The state of exactly this version; None for version 0: there never was one. Raises StateLost."""

    def save(self, device: int, state: DeviceState, after: int) -> int:
        """Keep a state made from version ``after`` and return its version; older ones than ``after`` go."""

    def beside(self, name: str) -> "DeviceStore":
        """A store of the same kind and place for something else of the same devices, with versions of its own."""


class MemoryStore:
    """States of this process only."""

    def __init__(self) -> None:
        self._states: dict[int, dict[int, bytes]] = {}

    def load(self, device: int, version: int) -> DeviceState | None:
        if not version:
            return None
        data = self._states.get(device, {}).get(version)
        if data is None:
            raise StateLost("missing")
        return DeviceState.unpack(data)

    def save(self, device: int, state: DeviceState, after: int) -> int:
        kept = {v: data for v, data in self._states.get(device, {}).items() if v == after}
        self._states[device] = kept | {after + 1: state.pack()}
        return after + 1

    def beside(self, name: str) -> "MemoryStore":
        """Empty: nothing was kept yet."""
        return MemoryStore()


class DiskStore:
    """One folder per device, one file per version, written atomically.

    A file is an ordinary safetensors file whose JSON says which run, device and version it is of, with a SHA-256
    over all of it: one that was cut, changed or put in another's place counts as lost. The sum finds accidents; who
    can write the file can also write the sum.
    """

    def __init__(
        self, directory: Path, run: str, failure: type[FibecFedError] = DeviceFailed, folder: str | None = None
    ) -> None:
        """``failure``: what a full disk is; where all devices share one, it is not one device's affair.

        ``folder``: within each device's.
        """
        self._directory = directory
        self._folder = folder
        self._run = run
        self._failure = failure

    def load(self, device: int, version: int) -> DeviceState | None:
        if not version:
            return None
        try:
            tensors, content = unpack(self._path(device, version).read_bytes())
        except FileNotFoundError:
            raise StateLost("missing") from None
        except (OSError, Undecodable):
            raise StateLost("damaged") from None
        checksum = content.pop("sha256", None)
        if checksum != _sha256(tensors, content):
            raise StateLost("damaged")
        if content.get("of") != self._owner(device, version):
            raise StateLost("foreign")
        return DeviceState.of(tensors, content["info"])

    def save(self, device: int, state: DeviceState, after: int) -> int:
        """As the protocol says. Raises ``failure`` where the disk is full or cannot be written."""
        path = self._path(device, after + 1)
        tensors, content = state.named(), {"info": dict(state.info), "of": self._owner(device, after + 1)}
        data = pack(tensors, {**content, "sha256": _sha256(tensors, content)})
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, data)
            for other in path.parent.glob("*.safetensors"):
                if other.stem not in (str(after), str(after + 1)):
                    other.unlink()
        except OSError as error:
            raise self._failure(f"its state could not be written to '{path}': {error.strerror}") from None
        return after + 1

    def beside(self, name: str) -> "DiskStore":
        """In a folder of this name within each device's."""
        return DiskStore(self._directory, self._run, self._failure, name)

    def _owner(self, device: int, version: int) -> dict[str, Any]:
        owner = {"run": self._run, "device": device, "version": version}
        return owner if self._folder is None else {**owner, "folder": self._folder}

    def _path(self, device: int, version: int) -> Path:
        folder = self._directory / str(device)
        return (folder if self._folder is None else folder / self._folder) / f"{version}.safetensors"


def _sha256(tensors: Mapping[str, Tensor], content: Mapping[str, Any]) -> str:
    read_back = json.loads(json.dumps(dict(content)))  # what JSON makes of tuples and of keys that are numbers
    digest = hashlib.sha256(json.dumps(read_back, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name!r} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a crash leaves the old content or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)  # on a full disk it would take up room
        raise
