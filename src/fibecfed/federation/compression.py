"""What the parameters in a message are on the wire, both ways (docs/method.md section 13).

A reply carries the change of each parameter against what its device was sent; the server adds it to its own exact
value. What rounding took away is kept where it was taken (error feedback: Seide et al. 2014, Stich et al. 2018,
Karimireddy et al. 2019). On the device it is a residual that joins the next change. At the server it is in the model,
which is never replaced by what was sent.

Rounding draws from the run's seed, which everybody knows; it protects nobody's privacy.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from torch import Tensor

from fibecfed.config import Config
from fibecfed.errors import InputError
from fibecfed.federation.codec import Undecodable
from fibecfed.federation.device import Device
from fibecfed.federation.messages import Address, Reply, Request
from fibecfed.federation.quantization import Bfloat16, Draws, Int8Rows, Packing, Shape, TopK
from fibecfed.federation.state import DeviceState
from fibecfed.federation.validation import LOST_REASONS, MOST, InfoSpec, Number, OneOf
from fibecfed.seeding import stream
from fibecfed.tuning import Layout

SHARE = 0.1  # of the entries, where federation.top_share is not set
LEAST_MATRIX, LEAST_VECTOR = 128, 4096  # entries; what has fewer stays float32
RESIDUAL = "residual"  # in a request: the accepted version of the device's residual; in a reply: the one it offers
RESIDUAL_LOST = "residual_lost"  # in a reply: why the accepted residual was not there
_PACKED, _SHAPES = "packed", "shapes"  # in a message's info: which parameters are packed; shapes not of the layout
_PREFIX = "packed/"  # of the tensors that hold them

Message = TypeVar("Message", Request, Reply)


class Compression(Protocol):
    """Messages as they cross, and back; both halves of a run have the same one."""

    says: Mapping[str, InfoSpec]  # what replies may say beyond what their stage expects

    def pack_request(self, request: Request, residual: int) -> Request:
        """At the server; ``residual`` is the version of the device's residual that was last accepted, 0: none."""

    def unpack_request(self, request: Request) -> Request:
        """On the device. Raises Undecodable."""

    def pack_reply(self, device: Device, request: Request, reply: Reply) -> Reply:
        """On the device; ``request`` is the unpacked one. Keeps the device's new residual."""

    def unpack_reply(self, reply: Reply, request: Request, residual: int) -> Reply:
        """At the server, before the reply is validated; ``request`` as it was before packing. Raises Undecodable."""

    def outline(self, message: Message, request: Request | None, residual: int) -> Message:
        """A message of the size that this one has when packed (a reply to ``request``); its values mean nothing."""


class Uncompressed:
    """Messages cross as they are."""

    says: Mapping[str, InfoSpec] = {}

    def pack_request(self, request: Request, residual: int) -> Request:
        return request

    def unpack_request(self, request: Request) -> Request:
        return request

    def pack_reply(self, device: Device, request: Request, reply: Reply) -> Reply:
        return reply

    def unpack_reply(self, reply: Reply, request: Request, residual: int) -> Reply:
        return reply

    def outline(self, message: Message, request: Request | None, residual: int) -> Message:
        return message


class Compressed:
    """Large parameters are packed; the rest (small ones, sums, scores, counts) crosses as it is.

    ``down`` packs the model, ``up`` its change; with ``feeds_back`` devices keep what ``up`` left out.
    """

    def __init__(self, seed: int, layout: Layout, down: Packing, up: Packing, feeds_back: bool) -> None:
        self._seed = seed
        self._names = layout.names
        self._place = {name: place for place, name in enumerate(layout.names)}
        self._shapes = {p.name: p.shape for p in layout}
        self._down, self._up = down, up
        self._feeds_back = feeds_back
        self._latest: tuple[str, list[Tensor], dict[str, Tensor]] | None = None  # what all devices of a stage are sent
        self.says: Mapping[str, InfoSpec] = (
            {RESIDUAL: Number(1, MOST, whole=True), RESIDUAL_LOST: OneOf(LOST_REASONS)} if feeds_back else {}
        )

    # Server to device

    def pack_request(self, request: Request, residual: int) -> Request:
        names = self._large(request.tensors)
        if not names:
            return request
        parts = self._broadcast(request.address, names, [request.tensors[name] for name in names])
        return _with(request, names, parts, self._asked(request, names, residual))

    def _broadcast(self, where: Address, names: Sequence[str], tensors: list[Tensor]) -> dict[str, Tensor]:
        """Packed parameters: the same for every device of a stage, and in memory once."""
        key = f"{where.stage} {where.round}"
        if self._latest is not None:
            known, before, parts = self._latest
            same = known == key and len(before) == len(tensors)
            if same and all(one is other for one, other in zip(before, tensors, strict=True)):
                return parts
        draws = self._draws(names, f"rounding of {where.stage} requests", where.round)
        parts = self._down.packed(tensors, draws)
        self._latest = key, tensors, parts
        return parts

    def unpack_request(self, request: Request) -> Request:
        if _PACKED not in request.info:
            return request
        names = self._named(request.info[_PACKED], request.tensors)
        try:
            others = {int(place): tuple(map(int, shape)) for place, shape in request.info.get(_SHAPES, {}).items()}
        except (AttributeError, TypeError, ValueError) as error:
            raise Undecodable(f"not a request: its shapes are none: {error}") from None
        shapes = [others.get(self._place[name], self._shapes[name]) for name in names]
        return _without(request, self._down.unpacked(_parts(request), shapes), names)

    # Device to server

    def pack_reply(self, device: Device, request: Request, reply: Reply) -> Reply:
        names = self._changed(reply.tensors, request)
        if not names:
            return reply
        version = int(request.info.get(RESIDUAL, 0))
        left, lost = device.residual(version) if self._feeds_back else ({}, None)
        changes = []
        for name in names:
            change = reply.tensors[name] - request.tensors[name]
            before = left.get(name)
            changes.append(change if before is None or before.shape != change.shape else change + before)
        where = reply.address
        draws = self._draws(names, f"rounding of {where.stage} replies", where.round, where.device)
        parts = self._up.packed(changes, draws)
        said = self._told(names, version)
        if lost is not None:
            said[RESIDUAL_LOST] = lost
        if self._feeds_back:
            arrived = self._up.unpacked(parts, [tuple(change.shape) for change in changes])
            rest = {name: change - came for name, change, came in zip(names, changes, arrived, strict=True)}
            device.site.residuals.save(device.number, DeviceState(memory={**left, **rest}), version)
        return _with(reply, names, parts, said)

    def unpack_reply(self, reply: Reply, request: Request, residual: int) -> Reply:
        if _PACKED not in reply.info:
            return reply
        names = self._named(reply.info[_PACKED], reply.tensors)
        if names != self._changed(dict.fromkeys(names), request):
            raise Undecodable("not a reply: it packs changes of parameters that its device was not sent")
        if reply.info.get(RESIDUAL) != (residual + 1 if self._feeds_back else None):
            raise Undecodable(f"not a reply: it offers another residual than the one after version {residual}")
        sent = [request.tensors[name] for name in names]
        changes = self._up.unpacked(_parts(reply), [tuple(tensor.shape) for tensor in sent])
        return _without(reply, [tensor + change for tensor, change in zip(sent, changes, strict=True)], names)

    def outline(self, message: Message, request: Request | None, residual: int) -> Message:
        if isinstance(message, Request):
            names, packing = self._large(message.tensors), self._down
            said = self._asked(message, names, residual)
        else:
            assert request is not None
            names, packing = self._changed(message.tensors, request), self._up
            said = self._told(names, residual)
        if not names:
            return message
        return _with(message, names, packing.outline([tuple(message.tensors[name].shape) for name in names]), said)

    # What is packed, and what is said of it

    def _large(self, tensors: Mapping[str, Tensor]) -> list[str]:
        """The parameters among these tensors that are packed, in the layout's order."""
        return [name for name in self._names if name in tensors and is_large(tuple(tensors[name].shape))]

    def _changed(self, tensors: Mapping[str, Any], request: Request) -> list[str]:
        """Those of a reply whose change can be told: the device was sent them."""
        return [name for name in self._large(request.tensors) if name in tensors]

    def _asked(self, request: Request, names: Sequence[str], residual: int) -> dict[str, Any]:
        said: dict[str, Any] = {_PACKED: _ranges([self._place[name] for name in names])}
        found = {name: tuple(request.tensors[name].shape) for name in names}
        others = {str(self._place[n]): list(shape) for n, shape in found.items() if shape != self._shapes[n]}
        if others:
            said[_SHAPES] = others
        return {**said, RESIDUAL: residual} if self._feeds_back else said

    def _told(self, names: Sequence[str], residual: int) -> dict[str, Any]:
        said: dict[str, Any] = {_PACKED: _ranges([self._place[name] for name in names])}
        return {**said, RESIDUAL: residual + 1} if self._feeds_back else said

    def _named(self, ranges: Any, others: Mapping[str, Tensor]) -> list[str]:
        """Names of the parameters in these ranges of places. Raises Undecodable."""
        names: list[str] = []
        least = 0
        try:
            for first, last in ranges:
                if type(first) is not int or type(last) is not int or not least <= first <= last < len(self._names):
                    raise ValueError("its ranges do not ascend or are outside of the model")
                names += self._names[first : last + 1]
                least = last + 1
        except (TypeError, ValueError) as error:
            raise Undecodable(f"not a message: it does not say which parameters are packed: {error}") from None
        if not names or not others.keys().isdisjoint(names):
            raise Undecodable("not a message: it packs no parameter, or one that it also has as it is")
        return names

    def _draws(self, names: Sequence[str], purpose: str, *keys: int) -> Draws:
        def drawn(position: int, count: int) -> np.ndarray:
            return stream(self._seed, purpose, *keys, self._place[names[position]]).random(count)

        return drawn


def is_large(shape: Shape) -> bool:
    """Whether a parameter is packed: a matrix of 128 entries, a vector of 4,096 (project decision)."""
    return int(np.prod(shape, dtype=np.int64)) >= (LEAST_MATRIX if len(shape) > 1 else LEAST_VECTOR)


def compression_of(config: Config, layout: Layout) -> Compression:
    """What ``federation.compression`` asks for. Raises InputError where it would change nothing."""
    settings = config.federation
    if settings.compression == "none":
        return Uncompressed()
    if not any(is_large(p.shape) for p in layout):
        raise InputError(
            f"federation.compression={settings.compression} would change nothing: no parameter that trains is a matrix "
            f"of {LEAST_MATRIX} entries or a vector of {LEAST_VECTOR}; set it to none, or raise lora.rank."
        )
    if settings.compression == "bf16":
        return Compressed(config.seed, layout, Bfloat16(), Bfloat16(), feeds_back=False)
    up = Int8Rows() if settings.compression == "int8" else TopK(settings.top_share or SHARE)
    return Compressed(config.seed, layout, Int8Rows(), up, feeds_back=True)


def _with(message: Message, names: Sequence[str], parts: Mapping[str, Tensor], said: Mapping[str, Any]) -> Message:
    rest = {name: tensor for name, tensor in message.tensors.items() if name not in set(names)}
    packed = {f"{_PREFIX}{name}": part for name, part in parts.items()}
    return dataclasses.replace(message, tensors={**rest, **packed}, info={**message.info, **said})


def _without(message: Message, tensors: Sequence[Tensor], names: Sequence[str]) -> Message:
    rest = {name: tensor for name, tensor in message.tensors.items() if not name.startswith(_PREFIX)}
    info = {key: value for key, value in message.info.items() if key not in (_PACKED, _SHAPES)}
    return dataclasses.replace(message, tensors={**rest, **dict(zip(names, tensors, strict=True))}, info=info)


def _parts(message: Request | Reply) -> dict[str, Tensor]:
    return {n.removeprefix(_PREFIX): t for n, t in message.tensors.items() if n.startswith(_PREFIX)}


def _ranges(places: Sequence[int]) -> list[list[int]]:
    """Ascending numbers as [first, last] of each stretch without a gap."""
    found: list[list[int]] = []
    for place in places:
        if found and found[-1][1] == place - 1:
            found[-1][1] = place
        else:
            found.append([place, place])
    return found
