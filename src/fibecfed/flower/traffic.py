"""The bytes that cross the network in a run over machines, all messages counted."""

from collections.abc import Mapping
from typing import Any

from fibecfed.flower import wire

_NAMES = {wire.TRAIN: "training", wire.EVALUATE: "evaluation", wire.JOIN: "joining", wire.SAVE: "saving"}


class Traffic:
    """Messages and their bytes, down to the devices and up from them, by what they are for.

    Contents only: what Flower, HTTP and TLS add, and Flower's asking for work every three seconds, comes on top.
    """

    def __init__(self, earlier: Mapping[str, Mapping[str, int]] | None = None) -> None:
        self._counts = {name: {"messages": 0, "down": 0, "up": 0} for name in _NAMES.values()}
        for name in self._counts.keys() & (earlier or {}).keys():
            self._counts[name] = dict((earlier or {})[name])

    def sent(self, kind: str, size: int) -> None:
        """One message to a device, in bytes."""
        self._counts[_NAMES[kind]]["messages"] += 1
        self._counts[_NAMES[kind]]["down"] += size

    def received(self, kind: str, size: int) -> None:
        """One message from a device, in bytes."""
        self._counts[_NAMES[kind]]["messages"] += 1
        self._counts[_NAMES[kind]]["up"] += size

    def content(self) -> dict[str, Any]:
        """As JSON has it: by purpose, and all together."""
        total = {key: sum(counts[key] for counts in self._counts.values()) for key in ("messages", "down", "up")}
        return {**{name: dict(counts) for name, counts in self._counts.items()}, "all": total}
