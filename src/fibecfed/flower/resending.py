"""What a device holds already is named in a request and not sent again.

The model that was evaluated after a round is the one that the next round starts from, and what is not shared never
changes. Both sides remember the tensors of the latest message of each kind, by digest, and those before training; a
device that does not hold what it should (it was started anew, say) answers ``wire.LACKS`` and is sent all of it.
"""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fibecfed.federation import Request, decode, encode

_NAMED = "held"  # in a request's info: digests of the tensors that are left out, by name


class Lacking(Exception):
    """A request names a tensor that is not held here."""


def digest(tensor: Tensor) -> str:
    """128 bits of SHA-256, as hex digits, over type, shape and values."""
    found = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
    found.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:32]


class Sent:
    """The server's side: what each device holds, as far as its answers tell. Devices are Flower's nodes here."""

    def __init__(self, initial: Mapping[str, Tensor]) -> None:
        self._initial = frozenset(map(digest, initial.values()))
        self._held: dict[int, dict[str, frozenset[str]]] = {}  # by node and kind of message
        self._unlike: set[int] = set()  # nodes that began with other values

    def shortened(self, node: int, kind: str, request: Request) -> Request:
        """The request without what the node holds. Until it is ``confirmed`` it counts for nothing."""
        held = self._held.setdefault(node, {})
        known = frozenset[str]().union(*held.values(), () if node in self._unlike else self._initial)
        held.pop(kind, None)
        named = {name: found for name, tensor in request.tensors.items() if (found := digest(tensor)) in known}
        if not named:
            return request
        rest = {name: tensor for name, tensor in request.tensors.items() if name not in named}
        return dataclasses.replace(request, tensors=rest, info={**request.info, _NAMED: named})

    def confirmed(self, node: int, kind: str, request: Request) -> None:
        """The node has answered this request, all of which it has seen."""
        self._held.setdefault(node, {})[kind] = frozenset(map(digest, request.tensors.values()))

    def forget(self, node: int) -> None:
        """The node said that it lacks something."""
        self._held.pop(node, None)
        self._unlike.add(node)


class Held:
    """The device's side: the tensors before training, and those of the latest message of each kind."""

    def __init__(self, initial: Mapping[str, Tensor]) -> None:
        self._initial = {digest(tensor): tensor for tensor in initial.values()}
        self._latest: dict[str, dict[str, Tensor]] = {}  # by kind of message, then by digest

    def completed(self, kind: str, request: Request) -> Request:
        """The request as it was before it was shortened, bit for bit. Raises Lacking."""
        info: dict[str, Any] = dict(request.info)
        named = info.pop(_NAMED, {})
        known = {**self._initial, **{d: t for tensors in self._latest.values() for d, t in tensors.items()}}
        self._latest.pop(kind, None)
        if not set(named.values()) <= known.keys():
            raise Lacking
        tensors = {**request.tensors, **{name: known[found].clone() for name, found in named.items()}}
        self._latest[kind] = {digest(tensor): tensor for tensor in tensors.values()}
        return decode(encode(dataclasses.replace(request, tensors=tensors, info=info)), Request)  # nothing is shared
