"""Jobs and results as bytes between processes of one machine: every number arrives bit for bit.

The only place that unpickles: what a process of the same run wrote into its pipe, never a file or a message of others.
"""

import io
import pickle
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class CannotBeSent(Exception):
    """What has to stay in its process, such as a function in a function."""


class Parcels:
    """Packs and opens, in processes forked from one another.

    ``known`` objects are there on both sides and are only named, such as the sets of texts, which every job mentions.
    """

    def __init__(self, known: Sequence[object] = ()) -> None:
        self._known = list(known)

    def pack(self, content: Any) -> bytes:
        """Raises CannotBeSent."""
        buffer = io.BytesIO()
        packer = _Packer(buffer, protocol=pickle.HIGHEST_PROTOCOL)
        packer.numbers = {id(known): number for number, known in enumerate(self._known)}
        try:
            packer.dump(content)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise CannotBeSent(str(error)) from error
        return buffer.getvalue()

    def open(self, parcel: bytes) -> Any:
        """What was packed."""
        opener = _Opener(io.BytesIO(parcel))
        opener.known = self._known
        return opener.load()


class _Packer(pickle.Pickler):
    """A tensor goes as its own entries: torch's way would send all of a storage for each view of it."""

    numbers: dict[int, int]

    def persistent_id(self, obj: Any) -> int | None:
        return self.numbers.get(id(obj))

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is not Tensor or obj.requires_grad or obj.layout != torch.strided or obj.device.type != "cpu":
            return NotImplemented
        entries = obj.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if obj.numel() else b""
        return _tensor, (entries, obj.dtype, tuple(obj.shape))


class _Opener(pickle.Unpickler):
    known: list[object]

    def persistent_load(self, pid: Any) -> object:
        return self.known[pid]


def _tensor(entries: bytes, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    if not entries:
        return torch.empty(shape, dtype=dtype)
    # A copy in memory that torch aligns: how some kernels add up depends on where a tensor begins.
    return torch.frombuffer(bytearray(entries), dtype=dtype).reshape(shape).clone()
