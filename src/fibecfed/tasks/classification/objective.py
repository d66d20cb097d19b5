"""Sequence classification: cross-entropy, confusion counts, accuracy, F1 and Matthews correlation."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fibecfed.tasks.base import Batch, Counts


@dataclass(frozen=True)
class Classification:
    """One label out of C for each example.

    ``extra_metrics`` adds "f1" (binary, class 1 positive) or "matthews" beside accuracy.
    """

    labels: tuple[str, ...]
    extra_metrics: tuple[str, ...] = ()

    @property
    def outputs(self) -> int:
        return len(self.labels)

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        return functional.cross_entropy(model(batch).float(), batch.labels, reduction="none")

    def counts(self, outputs: Tensor, batch: Batch) -> Counts:
        """ "confusion" (B, C, C), one-hot of (true label, predicted label), and "loss" (B,)."""
        classes = self.outputs
        cell = batch.labels * classes + outputs.argmax(dim=-1)
        confusion = functional.one_hot(cell, classes * classes).view(-1, classes, classes)
        losses = functional.cross_entropy(outputs.float(), batch.labels, reduction="none")
        return Counts({"confusion": confusion.cpu().numpy(), "loss": losses.double().cpu().numpy()})

    def metrics(self, counts: Counts) -> dict[str, float]:
        """accuracy and loss, then the extra metrics.

        Matthews correlation is 0 where its denominator is, as in scikit-learn.
        """
        if not counts.values or not len(counts.values["loss"]):
            return {}
        confusion = np.asarray(counts.values["confusion"], dtype=np.float64).sum(axis=0)
        total = confusion.sum()
        if total == 0:
            return {}
        result = {
            "accuracy": float(np.trace(confusion) / total),
            "loss": float(counts.values["loss"].sum() / total),
        }
        if "f1" in self.extra_metrics:
            found, wanted = confusion[:, 1].sum(), confusion[1].sum()
            result["f1"] = float(2 * confusion[1, 1] / (found + wanted)) if found + wanted else 0.0
        if "matthews" in self.extra_metrics:
            result["matthews"] = matthews(confusion)
        return result


def matthews(confusion: np.ndarray) -> float:
    """Matthews correlation of a (C, C) confusion matrix (Gorodkin 2004); 0 when undefined."""
    true, predicted, total = confusion.sum(1), confusion.sum(0), confusion.sum()
    covariance = np.trace(confusion) * total - true @ predicted
    spread = (total**2 - true @ true) * (total**2 - predicted @ predicted)
    return float(covariance / np.sqrt(spread)) if spread > 0 else 0.0


def to_probabilities(outputs: Tensor) -> np.ndarray:
    """(B, C) logits as float64 probabilities."""
    return torch.softmax(outputs.double(), dim=-1).cpu().numpy()
