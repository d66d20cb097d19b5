"""Messages and states as bytes: safetensors with a JSON header. No pickle anywhere."""

import dataclasses
import json
import struct
from collections.abc import Mapping
from typing import Any, TypeVar

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from fibecfed.errors import FibecFedError
from fibecfed.federation.messages import Address, Reply, Request

_KEY = "fibecfed"
_ALIGNED = 8  # safetensors fills its header with spaces to a multiple of this
# What json and safetensors raise for bytes that someone made up.
_UNREADABLE = (
    SafetensorError, struct.error, ValueError, KeyError, TypeError, MemoryError, RecursionError, RuntimeError,
    OverflowError, AttributeError,
)  # fmt: skip
Message = TypeVar("Message", Request, Reply)


class Undecodable(FibecFedError):
    """Bytes that are no message of the expected kind."""


def pack(tensors: Mapping[str, Tensor], content: Mapping[str, Any]) -> bytes:
    """Tensors and a JSON-able mapping as one byte string."""
    plain = {name: tensor.contiguous() for name, tensor in tensors.items()}
    return safetensors.torch.save(plain, metadata={_KEY: json.dumps(dict(content), sort_keys=True)})


def unpack(data: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The reverse of ``pack``. Raises Undecodable for anything else."""
    try:
        (length,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + length])
        content = json.loads(header["__metadata__"][_KEY])
        tensors = safetensors.torch.load(data)
    except _UNREADABLE as error:
        raise Undecodable(f"not a message: {type(error).__name__}: {error}") from None
    if not isinstance(content, dict):
        raise Undecodable("not a message: its header is no mapping")
    return tensors, content


def encode(message: Request | Reply) -> bytes:
    """A message as the bytes that cross the transport."""
    return pack(message.tensors, _said(message))


def _said(message: Request | Reply) -> dict[str, Any]:
    return {"address": dataclasses.asdict(message.address), "info": dict(message.info)}


class EncodedSizes:
    """``len(encode(message))`` of many messages; tensors of the same names, shapes and types are encoded once."""

    def __init__(self) -> None:
        self._known: dict[frozenset[tuple[Any, ...]], tuple[int, int]] = {}  # bytes of the header's rest, of tensors

    def __call__(self, message: Request | Reply) -> int:
        """Bytes."""
        form = frozenset((name, t.shape, t.dtype) for name, t in message.tensors.items())
        if form not in self._known:
            data = pack(message.tensors, {})
            (length,) = struct.unpack("<Q", data[:8])
            self._known[form] = len(data[8 : 8 + length].rstrip(b" ")) - _text_size({}), len(data) - 8 - length
        rest, tensors = self._known[form]
        header = rest + _text_size(_said(message))
        return 8 + -(-header // _ALIGNED) * _ALIGNED + tensors


def _text_size(content: Mapping[str, Any]) -> int:
    """Bytes of a message's JSON within the header's own JSON, where quotation marks and backslashes are escaped."""
    return len(json.dumps(json.dumps(dict(content), sort_keys=True)))


def decode(data: bytes, kind: type[Message]) -> Message:
    """A message from bytes. Raises Undecodable if fields are missing or of another type."""
    tensors, content = unpack(data)
    try:
        fields, info = content["address"], content["info"]
        address = Address(**fields)
    except (KeyError, TypeError) as error:
        raise Undecodable(f"not a {kind.__name__}: {error}") from None
    for field in dataclasses.fields(Address):
        if type(getattr(address, field.name)) is not field.type:
            raise Undecodable(f"not a {kind.__name__}: address field '{field.name}' is no {field.type}")
    if not isinstance(info, dict):
        raise Undecodable(f"not a {kind.__name__}: info is no mapping")
    return kind(address, tensors, info)
