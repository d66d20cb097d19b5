"""What is found for each device and a state of the server, found once."""

from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from torch import Tensor

from fibecfed.federation import Device, ServerState

Found = TypeVar("Found")


class OncePerState(Generic[Found]):
    """By device; what was found for an earlier model of the server is dropped."""

    def __init__(self) -> None:
        self._tensors: Mapping[str, Tensor] | None = None
        self._found: dict[tuple[int, int, frozenset[str]], Found] = {}

    def get(self, device: Device, state: ServerState, model: Mapping[str, Tensor], find: Callable[[], Found]) -> Found:
        """What ``find`` says of a device's ``model``, whose parameters are the server's or of the device's state."""
        if self._tensors is not state.tensors:
            self._tensors, self._found = state.tensors, {}
        servers = frozenset(name for name, tensor in model.items() if tensor is state.tensors[name])
        key = device.number, device.state_version, servers
        if key not in self._found:
            self._found[key] = find()
        return self._found[key]
