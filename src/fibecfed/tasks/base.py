"""What a model is trained for: the interface, and the two things every task passes around."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Batch:
    """Padded examples. B examples of at most T tokens; right padding."""

    input_ids: Tensor  # (B, T) int64
    attention_mask: Tensor  # (B, T) int64, 1 for a real token
    labels: Tensor  # (B,) int64
    token_type_ids: Tensor | None = None  # (B, T) int64

    def __len__(self) -> int:
        return int(self.input_ids.shape[0])

    def to(self, device: torch.device) -> "Batch":
        """The batch on a torch device."""
        types = None if self.token_type_ids is None else self.token_type_ids.to(device)
        return Batch(self.input_ids.to(device), self.attention_mask.to(device), self.labels.to(device), types)

    def rows(self, start: int, stop: int) -> "Batch":
        """A slice of the examples, with the same padding."""
        types = None if self.token_type_ids is None else self.token_type_ids[start:stop]
        return Batch(self.input_ids[start:stop], self.attention_mask[start:stop], self.labels[start:stop], types)


@dataclass(frozen=True)
class Counts:
    """Additive evaluation counts; a metric is a function of their totals, so that devices can be pooled.

    Every array has the examples on its first axis: (B, ...), or (1, ...) after ``total``.
    """

    values: Mapping[str, np.ndarray]

    def total(self) -> "Counts":
        """The sum over examples, still additive."""
        return Counts({name: value.sum(axis=0, keepdims=True) for name, value in self.values.items()})

    def take(self, examples: np.ndarray) -> "Counts":
        """The counts of some examples."""
        return Counts({name: value[examples] for name, value in self.values.items()})

    @staticmethod
    def join(parts: Sequence["Counts"]) -> "Counts":
        """The examples of several counts, one after another."""
        names = parts[0].values if parts else ()
        return Counts({name: np.concatenate([part.values[name] for part in parts]) for name in names})


class Task(Protocol):
    """A training objective with its evaluation."""

    @property
    def outputs(self) -> int:
        """Width of the head."""

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        """-log p of each example's target, shape (B,), differentiable."""

    def counts(self, outputs: Tensor, batch: Batch) -> Counts:
        """Additive counts of each example of a batch, first axis B."""

    def metrics(self, counts: Counts) -> dict[str, float]:
        """Metrics of the counts' total; the first is the main one. No examples: {}."""
