"""Sequence classification: cross-entropy, confusion counts, accuracy, F1 and Matthews correlation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fibecfed.config import Config
from fibecfed.tasks.base import Batch, Counts, FittedHead, Form, Sums, Task, TextRows
from fibecfed.tasks.classification import closed_form
from fibecfed.tasks.classification.own_head import fit_own_head
from fibecfed.tasks.classification.prediction import Prediction
from fibecfed.tasks.classification.prior import log_prior_ratio

_COUNTS = "label_counts"


@dataclass(frozen=True)
class Classification(Task):
    """One label out of C for each example.

    ``extra_metrics`` adds "f1" (binary, class 1 positive) or "matthews" beside accuracy.
    """

    kind: ClassVar[str] = "classification"
    metric: ClassVar[str] = "accuracy"
    group: ClassVar[str] = "label"
    tells_groups: ClassVar[bool] = True

    labels: tuple[str, ...]
    extra_metrics: tuple[str, ...] = ()

    @classmethod
    def of(cls, names: Sequence[str], extra_metrics: Sequence[str] = ()) -> "Classification":
        """The labels of a run."""
        return cls(tuple(names), tuple(extra_metrics))

    @property
    def outputs(self) -> int:
        return len(self.labels)

    @property
    def output_names(self) -> tuple[str, ...]:
        """The labels."""
        return self.labels

    @staticmethod
    def name_outputs(settings: Any, description: Mapping[str, Any]) -> None:
        settings.id2label = dict(enumerate(description["labels"]))
        settings.label2id = {name: number for number, name in enumerate(description["labels"])}

    @staticmethod
    def targets(rows: TextRows) -> np.ndarray:
        """(N,) int64, positions in ``labels``."""
        return rows.labels.astype(np.int64)

    @staticmethod
    def groups(rows: TextRows) -> np.ndarray:
        """The labels."""
        return rows.labels.astype(np.int64)

    @property
    def group_count(self) -> int:
        return len(self.labels)

    @staticmethod
    def chances(outputs: Tensor) -> Tensor:
        return torch.softmax(outputs.float(), dim=-1)

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        return functional.cross_entropy(model(batch).float(), batch.targets, reduction="none")

    def counts(self, outputs: Tensor, batch: Batch) -> Counts:
        """ "confusion" (B, C, C), one-hot of (true label, predicted label), and "loss" (B,)."""
        classes = self.outputs
        cell = batch.targets * classes + outputs.argmax(dim=-1)
        confusion = functional.one_hot(cell, classes * classes).view(-1, classes, classes)
        losses = functional.cross_entropy(outputs.float(), batch.targets, reduction="none")
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

    def totals_form(self) -> Form:
        classes = self.outputs
        return {"confusion": ((1, classes, classes), torch.int64), "loss": ((1,), torch.float64)}

    def totals_problem(self, totals: Mapping[str, Tensor], examples: int) -> str | None:
        confusion, loss = totals["confusion"], totals["loss"]
        if (confusion < 0).any() or int(confusion.sum()) != examples or (loss < 0).any():
            return "its counts contradict one another"
        return None

    def answers(self, counts: Counts) -> np.ndarray:
        """The confusion matrix."""
        return counts.values["confusion"].sum(axis=0)

    @staticmethod
    def judged_groups(outputs: int) -> int:
        """One for each label."""
        return outputs

    def judged(self, counts: Counts) -> np.ndarray:
        """The right answers among each label's examples: their judgement is the balanced accuracy."""
        confusion = counts.values["confusion"].sum(axis=0)
        return np.stack([confusion.diagonal(), confusion.sum(axis=1)]).astype(np.float64)

    @staticmethod
    def enough(config: Config, outputs: int) -> float:
        """1/C + warm_up.accuracy (1 - 1/C): that part of the way from chance to 1 (docs/method.md section 2 [D])."""
        chance = 1 / outputs
        return chance + config.warm_up.accuracy * (1 - chance)

    reading_code: ClassVar[str] = 'print(task["labels"][int(logits[0].argmax())])'
    answer: ClassVar[str] = ".label"

    def predictions(self, outputs: np.ndarray) -> list[Prediction]:
        return [
            Prediction(self.labels[int(row.argmax())], dict(zip(self.labels, map(float, row), strict=True)))
            for row in to_probabilities(torch.from_numpy(outputs))
        ]

    @staticmethod
    def prediction_record(prediction: Prediction | None, digits: int | None) -> dict[str, Any]:
        if prediction is None:
            return {"label": None, "probabilities": None}
        probabilities = prediction.probabilities
        if digits is not None:
            probabilities = {name: round(p, digits) for name, p in probabilities.items()}
        return {"label": prediction.label, "probabilities": probabilities}

    @staticmethod
    def card_sentence(names: Sequence[str]) -> str:
        return f"Labels: {', '.join(names)}. "

    @classmethod
    def sum_shapes(cls, config: Config, hidden: int, outputs: int) -> dict[str, tuple[int, ...]]:
        return closed_form.sum_shapes(config, hidden, outputs)

    @staticmethod
    def sum_dtype(name: str) -> torch.dtype:
        return closed_form.sum_dtype(name)

    @staticmethod
    def needs_features(wanted: Sums) -> bool:
        return closed_form.needs_features(wanted)

    @staticmethod
    def device_sums(targets: Tensor, vectors: Tensor | None, wanted: Sums) -> dict[str, Tensor]:
        return closed_form.device_sums(targets, vectors, wanted)

    @staticmethod
    def sums_problem(found: Mapping[str, Tensor], examples: int) -> str | None:
        return closed_form.problem(found, examples)

    @staticmethod
    def solve_head(
        config: Config, folds: Sequence[Mapping[str, Tensor]], start: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], str]:
        return closed_form.solve_head(config, folds, start)

    @staticmethod
    def kept_sums(totals: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The label counts."""
        return {_COUNTS: totals[_COUNTS]}

    @staticmethod
    def expected_sum(name: str, group_counts: np.ndarray) -> Tensor | None:
        return torch.from_numpy(group_counts).double() if name == _COUNTS else None

    @staticmethod
    def prior_info(config: Config, memory: Mapping[str, Tensor]) -> dict[str, Any]:
        """With the prior-corrected loss, how many examples of each label there are."""
        return {_COUNTS: memory[_COUNTS].tolist()} if config.training.loss == "prior_corrected" else {}

    @classmethod
    def prior_sums(cls, outputs: int) -> dict[str, tuple[int, ...]]:
        """Label counts."""
        return {_COUNTS: (outputs,)}

    @staticmethod
    def prior_offset(memory: Mapping[str, Tensor], own: np.ndarray) -> Tensor | None:
        """log(pi_k / pi)."""
        return log_prior_ratio(own, memory[_COUNTS].numpy()) if _COUNTS in memory else None

    @staticmethod
    def fit_own_head(
        vectors: Tensor, targets: Tensor, weight: Tensor, bias: Tensor, offset: Tensor | None, rng: np.random.Generator
    ) -> FittedHead:
        return fit_own_head(vectors, targets, weight, bias, offset, rng)

    @staticmethod
    def output_offset(info: Mapping[str, Any], own: np.ndarray) -> Tensor | None:
        """log(pi_k / pi) for the prior-corrected loss."""
        if _COUNTS not in info:
            return None
        return log_prior_ratio(own, torch.tensor(info[_COUNTS], dtype=torch.float64).numpy())


def matthews(confusion: np.ndarray) -> float:
    """Matthews correlation of a (C, C) confusion matrix (Gorodkin 2004); 0 when undefined."""
    true, predicted, total = confusion.sum(1), confusion.sum(0), confusion.sum()
    covariance = np.trace(confusion) * total - true @ predicted
    spread = (total**2 - true @ true) * (total**2 - predicted @ predicted)
    return float(covariance / np.sqrt(spread)) if spread > 0 else 0.0


def to_probabilities(outputs: Tensor) -> np.ndarray:
    """(B, C) logits as float64 probabilities."""
    return torch.softmax(outputs.double(), dim=-1).cpu().numpy()
