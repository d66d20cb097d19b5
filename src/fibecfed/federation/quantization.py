"""Many float32 tensors as few small ones: how each kind of compression writes numbers (docs/method.md section 13).

A message's tensors are packed end to end, since a safetensors header of 100 to 200 bytes for each would undo much of
what a small matrix saves. Both sides know the shapes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from fibecfed.federation.codec import Undecodable

Shape = tuple[int, ...]
Draws = Callable[[int, int], np.ndarray]  # the position of a tensor, how many: uniform numbers in [0, 1)
_MOST = 127  # int8 without -128, so that the grid is symmetric
_BITS_PAY = 1 / 32  # a bit for every entry is less than 32 bits for each that is kept


class Packing(Protocol):
    """One way to write numbers small."""

    def packed(self, tensors: Sequence[Tensor], draws: Draws) -> dict[str, Tensor]:
        """float32 tensors as a few others. What is not finite comes back not finite."""

    def unpacked(self, parts: Mapping[str, Tensor], shapes: Sequence[Shape]) -> list[Tensor]:
        """float32 tensors of these shapes. Raises Undecodable for parts that do not fit them."""

    def outline(self, shapes: Sequence[Shape]) -> dict[str, Tensor]:
        """Tensors of the names, shapes and types that ``packed`` gives; their values mean nothing."""


class Bfloat16:
    """Rounded to the nearest bfloat16: 2 bytes an entry, off by at most 1/256 of it."""

    def packed(self, tensors: Sequence[Tensor], draws: Draws) -> dict[str, Tensor]:
        return {"bf16": torch.cat([tensor.reshape(-1) for tensor in tensors]).to(torch.bfloat16)}

    def unpacked(self, parts: Mapping[str, Tensor], shapes: Sequence[Shape]) -> list[Tensor]:
        _must_be(parts, self.outline(shapes))
        return _cut(parts["bf16"].float(), shapes)

    def outline(self, shapes: Sequence[Shape]) -> dict[str, Tensor]:
        return {"bf16": torch.empty(sum(map(_size, shapes)), dtype=torch.bfloat16)}


class Int8Rows:
    """One byte an entry and a float32 scale a row, rounded at random to the grid point below or above.

    A value x in a row of scale s = max|x| / 127 becomes floor(x / s + u), u uniform in [0, 1): s times that has mean x.
    Source: stochastic quantisation of Alistarh et al. 2017 (QSGD), 127 levels a side, with the maximum norm.
    The rows of a matrix lie along its longer side, so that both LoRA factors have one scale a rank (project decision).
    """

    def packed(self, tensors: Sequence[Tensor], draws: Draws) -> dict[str, Tensor]:
        numbers, scales = [], []
        for position, tensor in enumerate(tensors):
            rows = _rows(tensor).double()
            scale = (rows.abs().amax(dim=1) / _MOST).float()
            by = scale.double().unsqueeze(1)
            noise = torch.from_numpy(draws(position, rows.numel())).view(rows.shape)
            grid = torch.where(by == 0, 0.0, rows / by + noise).floor().clamp(-_MOST, _MOST)
            numbers.append(grid.nan_to_num(0.0).to(torch.int8).reshape(-1))  # the scale tells of what is not finite
            scales.append(scale)
        return {"int8": torch.cat(numbers), "scales": torch.cat(scales)}

    def unpacked(self, parts: Mapping[str, Tensor], shapes: Sequence[Shape]) -> list[Tensor]:
        _must_be(parts, self.outline(shapes))
        turned = [_rows_of(shape) for shape in shapes]
        scales = parts["scales"].double().split([rows for rows, _ in turned])
        grids = _cut(parts["int8"].double(), turned)
        values = [(grid * scale.unsqueeze(1)).float() for grid, scale in zip(grids, scales, strict=True)]
        return [_from_rows(value, shape) for value, shape in zip(values, shapes, strict=True)]

    def outline(self, shapes: Sequence[Shape]) -> dict[str, Tensor]:
        rows = sum(_rows_of(shape)[0] for shape in shapes)
        return {"int8": torch.empty(sum(map(_size, shapes)), dtype=torch.int8), "scales": torch.empty(rows)}


@dataclass(frozen=True)
class TopK:
    """The ``share`` of each tensor's entries that is largest in magnitude, as bfloat16, and where they are.

    Exactly ceil(share x entries) a tensor; of equal ones the first. Where they are takes one bit an entry, or an int32
    for each that is kept if those are fewer than one in 32.
    Source: Stich et al. 2018 (top-k with memory); bits and bfloat16 are a project decision.
    """

    share: float

    def packed(self, tensors: Sequence[Tensor], draws: Draws) -> dict[str, Tensor]:
        places, values, start = [], [], 0
        for tensor in tensors:
            flat = tensor.reshape(-1)
            kept = flat.abs().sort(descending=True, stable=True).indices[: self._kept(flat.numel())].sort().values
            places.append(kept + start)
            values.append(flat[kept])
            start += flat.numel()
        where, found = torch.cat(places), torch.cat(values).to(torch.bfloat16)
        if self.share < _BITS_PAY:
            return {"places": where.to(torch.int32), "values": found}
        marks = np.zeros(start, dtype=np.uint8)
        marks[where.numpy()] = 1
        return {"places": torch.from_numpy(np.packbits(marks)), "values": found}

    def unpacked(self, parts: Mapping[str, Tensor], shapes: Sequence[Shape]) -> list[Tensor]:
        _must_be(parts, self.outline(shapes))
        sizes, places = list(map(_size, shapes)), parts["places"]
        if self.share < _BITS_PAY:
            where = places.long()
            if (where.diff() <= 0).any() or where[0] < 0 or where[-1] >= sum(sizes):
                raise Undecodable("not a message: places of its largest values that do not ascend or are outside")
        else:
            where = torch.from_numpy(np.flatnonzero(np.unpackbits(places.numpy())))
        bounds = torch.tensor([0, *sizes]).cumsum(0)
        found = torch.bincount(torch.bucketize(where, bounds[1:], right=True), minlength=len(sizes)).tolist()
        if found != list(map(self._kept, sizes)):
            raise Undecodable("not a message: another number of largest values than the share says")
        flat = torch.zeros(int(bounds[-1]))
        flat[where] = parts["values"].float()
        return _cut(flat, shapes)

    def outline(self, shapes: Sequence[Shape]) -> dict[str, Tensor]:
        sizes = list(map(_size, shapes))
        kept = sum(map(self._kept, sizes))
        few = self.share < _BITS_PAY
        places = torch.empty(kept, dtype=torch.int32) if few else torch.empty(-(-sum(sizes) // 8), dtype=torch.uint8)
        return {"places": places, "values": torch.empty(kept, dtype=torch.bfloat16)}

    def _kept(self, size: int) -> int:
        return int(np.ceil(self.share * size))


def _must_be(parts: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    for name, tensor in wanted.items():
        found = parts.get(name)
        if found is None or found.shape != tensor.shape or found.dtype != tensor.dtype:
            raise Undecodable(f"not a message: its packed '{name}' is not {list(tensor.shape)} of {tensor.dtype}")


def _size(shape: Shape) -> int:
    return int(np.prod(shape, dtype=np.int64))


def _cut(flat: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
    pieces = flat.split([_size(shape) for shape in shapes])
    return [piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True)]


def _sides(shape: Shape) -> tuple[int, int]:
    """A tensor as a matrix; a vector is one row."""
    return (1, shape[0]) if len(shape) == 1 else (shape[0], _size(shape[1:]))


def _rows_of(shape: Shape) -> tuple[int, int]:
    """Rows along the longer side, and their length."""
    first, second = _sides(shape)
    return (second, first) if first > second and len(shape) > 1 else (first, second)


def _rows(tensor: Tensor) -> Tensor:
    matrix = tensor.reshape(_sides(tuple(tensor.shape)))
    return matrix if matrix.shape == _rows_of(tuple(tensor.shape)) else matrix.T


def _from_rows(rows: Tensor, shape: Shape) -> Tensor:
    first, second = _sides(shape)
    return (rows if rows.shape == (first, second) else rows.T).reshape(shape)
