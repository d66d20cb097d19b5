"""AdaLoRA's triplets: how important each is, which stay within a budget, and packing those that do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fibecfed.errors import RunFailed
from fibecfed.tuning.layout import Layout

Active = Sequence[Sequence[int]]  # for each map, in order, its triplets that are left, ascending


@dataclass(frozen=True)
class TripletMap:
    """The names of one map's parameters: Q (R, in), P (out, R), Lambda (R, 1)."""

    q: str
    p: str
    diagonal: str
    rank: int  # R

    def parts(self) -> tuple[tuple[str, int], ...]:
        """Each name with the axis along which its triplets lie."""
        return (self.q, 0), (self.p, 1), (self.diagonal, 0)


def triplet_maps(layout: Layout) -> tuple[TripletMap, ...]:
    """The maps of a layout with roles lora_A, lora_B and lora_E, in its order."""
    return tuple(
        TripletMap(p.name.replace(".lora_E.", ".lora_A."), p.name.replace(".lora_E.", ".lora_B."), p.name, p.shape[0])
        for p in layout
        if p.role == "lora_E"
    )


class TripletImportance:
    """The importance of every triplet over the steps of one training: Zhang et al. 2023, section 3.2.

    Of an entry w with gradient g: sensitivity I = |w g|, smoothed I' = beta1 I' + (1 - beta1) I, uncertainty
    U' = beta2 U' + (1 - beta2) |I - I'|, score s = I' U'. Of a triplet: s of its lambda plus the mean s of its column
    of P and of its row of Q. All start from 0.
    """

    def __init__(self, maps: Sequence[TripletMap], active: Active, beta1: float, beta2: float) -> None:
        self._maps, self._active = maps, active
        self._beta1, self._beta2 = beta1, beta2
        self._sensitivity: dict[str, Tensor] = {}
        self._uncertainty: dict[str, Tensor] = {}

    @torch.no_grad()
    def observe(self, parameters: Mapping[str, Tensor]) -> None:
        """One step's parameters with their gradients, before they move."""
        for name, _ in (part for m in self._maps for part in m.parts()):
            value = parameters[name]
            if value.grad is None:
                continue
            now = (value * value.grad).abs()
            before = self._sensitivity.get(name, torch.zeros_like(now))
            smooth = self._beta1 * before + (1 - self._beta1) * now
            uncertain = self._uncertainty.get(name, torch.zeros_like(now))
            self._sensitivity[name] = smooth
            self._uncertainty[name] = self._beta2 * uncertain + (1 - self._beta2) * (now - smooth).abs()

    def result(self) -> dict[str, Tensor]:
        """``importance`` (n,) float32 of the triplets that are left, map by map."""
        found = []
        for m, active in zip(self._maps, self._active, strict=True):
            score = torch.zeros(m.rank)
            for name, axis in m.parts():
                if name in self._sensitivity:
                    entries = (self._sensitivity[name] * self._uncertainty[name]).cpu()
                    score += entries.mean(dim=1 - axis)
            found.append(score[list(active)])
        return {"importance": torch.cat(found)}


def allocate(importance: np.ndarray, active: Active, budget: int) -> list[list[int]]:
    """The ``budget`` most important triplets of all maps; ties go to the lower map and triplet.

    ``importance`` (n,) as ``TripletImportance.result`` orders it. Raises RunFailed for values that are not finite.
    """
    if not np.isfinite(importance).all():
        raise RunFailed("The importance of a triplet is not finite; the rank budget cannot be allocated.")
    kept = np.sort(np.argsort(-importance, kind="stable")[:budget])
    owner = np.repeat(np.arange(len(active)), [len(own) for own in active])
    triplet = np.concatenate([np.asarray(own, dtype=np.int64) for own in active])
    return [triplet[kept[owner[kept] == number]].tolist() for number in range(len(active))]


def cubic_budget(round: int, rounds: int, first: int, last: int, start: float, end: float) -> int:
    """Triplets left after a 1-based round: ``first`` until ``start`` of the rounds, ``last`` from ``end`` of them on.

    Between them last + (first - last)(1 - progress)^3, rounded down. Source: Zhang et al. 2023, section 3.3.
    """
    progress = (round - start * rounds) / max((end - start) * rounds, 1e-12)
    return last + int((first - last) * (1 - min(1.0, max(0.0, progress))) ** 3)


def pack(tensors: Mapping[str, Tensor], maps: Sequence[TripletMap], active: Active) -> dict[str, Tensor]:
    """``tensors`` with only the triplets that are left; a map without any is not there."""
    names = {name for m in maps for name, _ in m.parts()}
    packed = {name: tensor for name, tensor in tensors.items() if name not in names}
    for m, own in zip(maps, active, strict=True):
        if own:
            chosen = torch.tensor(list(own))
            packed |= {name: tensors[name].index_select(axis, chosen) for name, axis in m.parts() if name in tensors}
    return packed


def unpack(
    packed: Mapping[str, Tensor], maps: Sequence[TripletMap], active: Active, layout: Layout
) -> dict[str, Tensor]:
    """The reverse of ``pack``; triplets that are not left are 0."""
    shapes = {p.name: p.shape for p in layout}
    whole = dict(packed)
    for m, own in zip(maps, active, strict=True):
        for name, axis in m.parts():
            empty = torch.zeros(shapes[name])
            whole[name] = empty.index_copy_(axis, torch.tensor(list(own)), packed[name]) if own else empty
    return whole
