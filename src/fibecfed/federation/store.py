"""Where device states live between rounds: in memory, or on the device's disk."""

import os
from pathlib import Path
from typing import Protocol

from fibecfed.federation.codec import Undecodable
from fibecfed.federation.state import DeviceState


class DeviceStore(Protocol):
    """Keeps, for each device, the state last accepted by the server and the one offered after it."""

    def load(self, device: int, version: int) -> DeviceState | None:
        """The state of exactly this version; None if it is lost (or version is 0: there never was one)."""

    def save(self, device: int, state: DeviceState, after: int) -> int:
        """Keep a state made from version ``after`` and return its version; older ones than ``after`` go."""


class MemoryStore:
    """States of this process only."""

    def __init__(self) -> None:
        self._states: dict[int, dict[int, bytes]] = {}

    def load(self, device: int, version: int) -> DeviceState | None:
        data = self._states.get(device, {}).get(version)
        return None if data is None else DeviceState.unpack(data)

    def save(self, device: int, state: DeviceState, after: int) -> int:
        kept = {v: data for v, data in self._states.get(device, {}).items() if v == after}
        self._states[device] = kept | {after + 1: state.pack()}
        return after + 1


class DiskStore:
    """One folder per device, one file per version, written atomically."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def load(self, device: int, version: int) -> DeviceState | None:
        path = self._path(device, version)
        if not version or not path.is_file():
            return None
        try:
            return DeviceState.unpack(path.read_bytes())
        except Undecodable:  # as good as lost
            return None

    def save(self, device: int, state: DeviceState, after: int) -> int:
        path = self._path(device, after + 1)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, state.pack())
        for other in path.parent.glob("*.safetensors"):
            if int(other.stem) not in (after, after + 1):
                other.unlink()
        return after + 1

    def _path(self, device: int, version: int) -> Path:
        return self._directory / str(device) / f"{version}.safetensors"


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a crash leaves the old content or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
