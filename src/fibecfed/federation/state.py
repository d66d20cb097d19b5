"""What server and devices remember between rounds, all of it serialisable."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from fibecfed.federation.codec import Undecodable, pack, unpack

OF_DEVICES = "of_devices"  # in ServerState.info: what single devices told the server; no device is sent it


@dataclass(frozen=True)
class Costs:
    """Cumulative cost of a run; evaluation is not counted (docs/method.md section 9)."""

    bytes_up: int = 0
    bytes_down: int = 0
    examples_trained: int = 0
    examples_scored: int = 0
    operations: float = 0.0
    cpu_seconds: float = 0.0
    simulated_seconds: float = 0.0

    def __add__(self, other: "Costs") -> "Costs":
        return Costs(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)))


@dataclass(frozen=True)
class ServerState:
    """Everything the server needs to go on: the shared model, the method's own memory, costs, device versions."""

    round: int  # rounds finished
    tensors: Mapping[str, Tensor]  # the server's model, every trainable parameter
    info: Mapping[str, Any] = field(default_factory=dict)  # the method's memory, JSON-able
    memory: Mapping[str, Tensor] = field(default_factory=dict)  # the method's memory, tensors
    device_versions: Mapping[int, int] = field(default_factory=dict)  # last accepted state of each device
    costs: Costs = field(default_factory=Costs)
    residual_versions: Mapping[int, int] = field(default_factory=dict)  # last accepted residual of each device

    def replace(self, **changes: Any) -> "ServerState":
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def pack(self, extra: Mapping[str, Any]) -> bytes:
        """The state and some JSON-able extra content as bytes."""
        tensors = {f"model/{n}": t for n, t in self.tensors.items()}
        tensors |= {f"memory/{n}": t for n, t in self.memory.items()}
        content = {
            "round": self.round,
            "info": dict(self.info),
            "device_versions": [[d, v] for d, v in sorted(self.device_versions.items())],
            "costs": dataclasses.asdict(self.costs),
            "extra": dict(extra),
        }
        if self.residual_versions:
            content["residual_versions"] = [[d, v] for d, v in sorted(self.residual_versions.items())]
        return pack(tensors, content)

    @staticmethod
    def unpack(data: bytes) -> tuple["ServerState", dict[str, Any]]:
        """The reverse of ``pack``. Raises Undecodable."""
        tensors, content = unpack(data)
        try:
            state = ServerState(
                round=int(content["round"]),
                tensors=dict(_under("model/", tensors)),
                info=dict(content["info"]),
                memory=dict(_under("memory/", tensors)),
                device_versions={int(device): int(version) for device, version in content["device_versions"]},
                costs=Costs(**content["costs"]),
                residual_versions={int(device): int(v) for device, v in content.get("residual_versions", ())},
            )
            return state, dict(content["extra"])
        except (KeyError, TypeError, ValueError) as error:
            raise Undecodable(f"not the state of a server: {type(error).__name__}: {error}") from None


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    return ((name[len(prefix) :], t) for name, t in tensors.items() if name.startswith(prefix))


@dataclass(frozen=True)
class DeviceState:
    """What one device keeps: its local parameters and whatever else its method needs. Never sent."""

    local: Mapping[str, Tensor] = field(default_factory=dict)  # parameters that stay here, by name
    memory: Mapping[str, Tensor] = field(default_factory=dict)  # optimizer state, masks, scores
    info: Mapping[str, Any] = field(default_factory=dict)

    def named(self) -> dict[str, Tensor]:
        """All tensors under one name each."""
        return {f"local/{n}": t for n, t in self.local.items()} | {f"memory/{n}": t for n, t in self.memory.items()}

    @staticmethod
    def of(tensors: Mapping[str, Tensor], info: Mapping[str, Any]) -> "DeviceState":
        """The reverse of ``named``."""
        return DeviceState(dict(_under("local/", tensors)), dict(_under("memory/", tensors)), dict(info))

    def pack(self) -> bytes:
        """The state as bytes."""
        return pack(self.named(), {"info": dict(self.info)})

    @staticmethod
    def unpack(data: bytes) -> "DeviceState":
        """The reverse of ``pack``. Raises Undecodable."""
        tensors, content = unpack(data)
        return DeviceState.of(tensors, content["info"])
