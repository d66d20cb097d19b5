"""Pooled vectors of texts, and what heads make of them: many models may differ in their heads only."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fibecfed.data import TokenizedSet, evaluation_batches
from fibecfed.tasks import HEAD_BIAS, HEAD_WEIGHT

# (tensors, data, batches, "vectors") -> the (B, d) vectors of each batch in turn
Passed = Callable[[Mapping[str, Tensor], TokenizedSet, Sequence[np.ndarray], str], Iterable[Tensor]]


class _Known:
    """The vectors (N, d) of a set of N texts, as far as they are known (N,)."""

    def __init__(self, data: TokenizedSet) -> None:
        self.ids = data.ids  # the same texts, whatever their targets are
        self.there = np.zeros(len(data), dtype=bool)
        self.vectors = torch.empty(0)

    def put(self, indices: np.ndarray, vectors: Tensor) -> None:
        if not self.there.any():
            self.vectors = torch.empty(len(self.there), vectors.shape[1])
        self.vectors[torch.from_numpy(indices)] = vectors
        self.there[indices] = True


class Features:
    """The vectors that a pooled head reads.

    Of one body at a time, that of a shared model, they are kept: each text passes once, however many heads are tried.
    Bodies are told apart by their tensors themselves, not by their values. Source: project decision.
    """

    def __init__(self, batch_size: int, passed: Passed) -> None:
        self._batch_size = batch_size
        self._passed = passed
        self._body: dict[str, tuple[Tensor, int]] | None = None  # tensors that train, and how often each was written
        self._known: list[_Known] = []

    def share(self, tensors: Mapping[str, Tensor]) -> None:
        """Keep what is found for this model's body; what is known of another is dropped."""
        if HEAD_WEIGHT in tensors and HEAD_BIAS in tensors and not self.is_shared(tensors):
            self._body = {n: (t, t._version) for n, t in tensors.items() if n not in (HEAD_WEIGHT, HEAD_BIAS)}
            self._known = []

    def is_shared(self, tensors: Mapping[str, Tensor]) -> bool:
        """Whether a model has that body and a pooled head."""
        if self._body is None or len(tensors) != len(self._body) + 2:
            return False
        return all(tensors.get(n) is tensor and tensor._version == v for n, (tensor, v) in self._body.items())

    def vectors(self, tensors: Mapping[str, Tensor], data: TokenizedSet, indices: np.ndarray) -> Tensor:
        """(n, d) vectors of the texts at ``indices``, in that order."""
        known = self._of(data) if self.is_shared(tensors) else _Known(data)
        missing = indices[~known.there[indices]]
        if len(missing):
            batches = list(evaluation_batches(missing, data.lengths[missing], self._batch_size))
            for chosen, vectors in zip(batches, self._passed(tensors, data, batches, "vectors"), strict=True):
                known.put(chosen, vectors)
        return known.vectors[torch.from_numpy(indices)]

    def outputs(
        self, tensors: Mapping[str, Tensor], data: TokenizedSet, indices: np.ndarray, device: torch.device
    ) -> Tensor:
        """(n, outputs) of a model with the shared body, on a torch device."""
        weight, bias = tensors[HEAD_WEIGHT].to(device), tensors[HEAD_BIAS].to(device)
        return functional.linear(self.vectors(tensors, data, indices).to(device), weight, bias)

    def _of(self, data: TokenizedSet) -> _Known:
        for known in self._known:
            if known.ids is data.ids:
                return known
        self._known.append(_Known(data))
        return self._known[-1]
