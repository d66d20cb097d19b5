"""What crosses between server and devices. Nothing else does."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Address:
    """Which piece of which run a message belongs to; a reply carries its request's address.

    ``state_version`` is the version of the device's state that the server last accepted (0: none) in a
    request, and the version that the device now offers in a reply.
    """

    run: str
    round: int
    stage: str
    device: int
    attempt: int = 0
    state_version: int = 0


@dataclass(frozen=True)
class Request:
    """Server to device."""

    address: Address
    tensors: Mapping[str, Tensor]
    info: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Reply:
    """Device to server."""

    address: Address
    tensors: Mapping[str, Tensor]
    info: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Failure:
    """A device that did not answer usefully, and why.

    ``kind`` is the reason in a word, to count by: "failed" (the device says so), "absent", "refused", "late",
    "undecodable", "unasked", "repeated", "address", "state version", "tensors", "values", "numbers", "norm", "sums".
    """

    device: int
    reason: str
    kind: str = "failed"


@dataclass(frozen=True)
class Delivery:
    """A reply with the serialised sizes that crossed the transport."""

    reply: Reply
    bytes_down: int
    bytes_up: int
