"""Validating a reply before the method sees it: what fails is left out of the round, counted and named.

A reply is validated alone, against what its device was asked and was sent. What other devices replied plays no part
(project decision). Replies are folded one by one in device order, so that an aggregate needs no memory of all of
them; a device's reply must not be refused because of who answered before it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from fibecfed.federation.codec import Undecodable, decode
from fibecfed.federation.messages import Address, Delivery, Failure, Reply, Request

MOST = 1e15  # of anything counted in one reply, but for operations
MOST_OPERATIONS = 1e24
MOST_PER_EXAMPLE = 1e12  # norm of sums and scores that are no parameters, for each example behind them
_SHOWN = 80  # characters of a name that a device made up


class TensorSpec(NamedTuple):
    """What a tensor of a reply must be."""

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32


class InfoSpec(Protocol):
    """What a value in a reply's info must be."""

    @property
    def required(self) -> bool:
        """Whether a reply without it is refused."""

    def allows(self, value: Any) -> bool:
        """Whether a value read from JSON will do."""


@dataclass(frozen=True)
class Number:
    """A finite number between two bounds, both allowed; ``whole``: no fraction; ``or_none``: null will do, too."""

    least: float
    most: float
    whole: bool = False
    or_none: bool = False
    required: bool = False

    def allows(self, value: Any) -> bool:
        if value is None:
            return self.or_none
        kinds = (int,) if self.whole else (int, float)
        return type(value) in kinds and self.least <= value <= self.most  # no bool; NaN fails both comparisons

    def __str__(self) -> str:
        return f"a {'whole ' if self.whole else ''}number from {self.least:g} to {self.most:g}"


@dataclass(frozen=True)
class OneOf:
    """One of a few values."""

    values: tuple[str | bool, ...]
    required: bool = False

    def allows(self, value: Any) -> bool:
        return any(type(value) is type(v) and value == v for v in self.values)

    def __str__(self) -> str:
        return "one of " + ", ".join(map(repr, self.values))


STATE_LOST = "state_lost"  # in a reply's info: the device's state was gone, and why
LOST_REASONS = ("missing", "damaged", "foreign")

# What every reply may say of the work behind it.
COSTS: Mapping[str, InfoSpec] = {
    "examples": Number(1, MOST, whole=True, required=True),
    "examples_scored": Number(0, MOST, whole=True),
    "examples_trained": Number(0, MOST, whole=True),
    "operations": Number(0, MOST_OPERATIONS),
    "loss": Number(-MOST, MOST),
    STATE_LOST: OneOf(LOST_REASONS),
}


@dataclass(frozen=True)
class Criteria:
    """What the replies of one stage must be."""

    tensors: Mapping[str, TensorSpec]
    info: Mapping[str, InfoSpec]
    parameters: frozenset[str]  # names of tensors that are parts of the model
    maximum_norm: float  # of their change
    maximum_examples: int


def receive(request: Request, bytes_down: int, data: bytes) -> Delivery | Failure:
    """What a transport makes of the bytes that the device of a request answered with.

    The device is the one that the transport asked: what a reply says of its own device is only compared with it.
    """
    device = request.address.device
    try:
        reply = decode(data, Reply)
    except Undecodable as error:
        return Failure(device, f"its answer could not be read: {shown(str(error))}", "undecodable")
    if reply.address.device != device:
        return Failure(device, f"it answered in the name of device {_digits(reply.address.device)}", "address")
    return Delivery(reply, bytes_down, len(data))


def validate(reply: Reply, request: Request, criteria: Criteria) -> Failure | None:
    """Why a reply to a request cannot be used; None if it can."""
    problem = (
        _address_problem(reply.address, request.address)
        or _form_problem(reply.tensors, criteria.tensors)
        or _info_problem(reply.info, criteria)
        or _size_problem(reply, request, criteria)
    )
    return None if problem is None else Failure(request.address.device, problem[1], problem[0])


_Problem = tuple[str, str] | None  # kind, reason


def _address_problem(found: Address, asked: Address) -> _Problem:
    if (found.run, found.round, found.stage, found.attempt) != (asked.run, asked.round, asked.stage, asked.attempt):
        return (
            "address",
            f"its reply is for run {shown(found.run)}, round {_digits(found.round)}, stage {shown(found.stage)}, "
            f"attempt {_digits(found.attempt)}",
        )
    if found.state_version not in (asked.state_version, asked.state_version + 1):
        return (
            "state version",
            f"it offers version {_digits(found.state_version)} of its state, but {asked.state_version} is the last "
            "that was accepted",
        )
    return None


def _form_problem(found: Mapping[str, Tensor], wanted: Mapping[str, TensorSpec]) -> _Problem:
    if found.keys() != wanted.keys():
        odd = min(found.keys() ^ wanted.keys())
        return "tensors", f"its reply {'lacks' if odd in wanted else 'has an unasked'} tensor {shown(odd)}"
    for name, spec in wanted.items():
        tensor = found[name]
        if tuple(tensor.shape) != spec.shape:
            return "tensors", f"its reply has {name} in shape {shown(str(tuple(tensor.shape)))}, not {spec.shape}"
        if tensor.dtype != spec.dtype:
            return "tensors", f"its reply has {name} as {tensor.dtype}, not {spec.dtype}"
        if not torch.isfinite(tensor).all():
            return "values", f"its reply has NaN or infinite values in {name}"
    return None


def _info_problem(found: Mapping[str, Any], criteria: Criteria) -> _Problem:
    wanted = criteria.info
    unknown = sorted(found.keys() - wanted.keys())
    if unknown:
        return "numbers", f"its reply says {shown(unknown[0])}, which nobody asked for"
    for name, spec in wanted.items():
        if name not in found:
            if spec.required:
                return "numbers", f"its reply does not say {name}"
        elif not spec.allows(found[name]):
            return "numbers", f"its reply says {name} = {_value(found[name])}, which is not {spec}"
    if found["examples"] > criteria.maximum_examples:
        return (
            "numbers",
            f"it claims {found['examples']} examples, more than "
            f"federation.maximum_examples={criteria.maximum_examples}",
        )
    return None


def _size_problem(reply: Reply, request: Request, criteria: Criteria) -> _Problem:
    """The norm of the change of the model; of what is no parameter, the norm for each example behind it."""
    change = sums = 0.0
    for name, tensor in reply.tensors.items():
        sent = request.tensors.get(name)
        moved = tensor - sent if sent is not None and sent.shape == tensor.shape else tensor
        norm = float(torch.linalg.vector_norm(moved.double()))
        if name in criteria.parameters:
            change = math.hypot(change, norm)
        else:
            sums = math.hypot(sums, norm)
    if not change <= criteria.maximum_norm:
        limit = f"federation.maximum_norm={criteria.maximum_norm:g}"
        return "norm", f"its parameters moved by {change:.3g} (norm), more than {limit}"
    most = MOST_PER_EXAMPLE * reply.info["examples"]
    if not sums <= most:
        return "norm", f"its sums have norm {sums:.3g}, more than {most:.3g} for {reply.info['examples']} examples"
    return None


def shown(text: str) -> str:
    """A text that came from a device, safe to print and to write: plain ASCII in quotation marks, cut."""
    quoted = ascii(text)  # a character may become ten, so that it is cut after this
    return quoted if len(quoted) <= _SHOWN + 2 else f"{quoted[:_SHOWN]}...{quoted[0]}"


def _digits(number: int) -> str:
    return str(number) if abs(number) < 10**18 else "of more than 18 digits"


def _value(value: Any) -> str:
    if type(value) is int:
        return _digits(value)
    return str(value) if type(value) in (float, bool, type(None)) else shown(repr(value))
