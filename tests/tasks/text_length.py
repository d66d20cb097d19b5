"""A task of its own, in one file: the length of a text, by regression. No labels, no groups, no closed-form head."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from fibecfed.tasks import Batch, Counts, Form, Task, TextRows

SCALE = 20.0  # letters in one unit of the target


@dataclass(frozen=True)
class TextLength(Task):
    """One number for each text: its letters, in units of ``SCALE``. The score is 1 / (1 + mean squared error)."""

    kind: ClassVar[str] = "text-length"
    metric: ClassVar[str] = "closeness"

    @classmethod
    def of(cls, names: Sequence[str], extra_metrics: Sequence[str] = ()) -> "TextLength":
        return cls()

    @property
    def outputs(self) -> int:
        return 1

    @staticmethod
    def targets(rows: TextRows) -> np.ndarray:
        return np.array([len(text) / SCALE for text in rows.texts], dtype=np.float32)

    def _errors(self, outputs: Tensor, batch: Batch) -> Tensor:
        return (outputs[:, 0].float() - batch.targets).square()

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        return self._errors(model(batch), batch)

    def counts(self, outputs: Tensor, batch: Batch) -> Counts:
        errors = self._errors(outputs, batch).double().cpu().numpy()
        return Counts({"loss": errors, "examples": np.ones(len(errors), dtype=np.int64)})

    def metrics(self, counts: Counts) -> dict[str, float]:
        examples = counts.values["examples"].sum() if counts.values else 0
        if not examples:
            return {}
        error = float(counts.values["loss"].sum() / examples)
        return {self.metric: 1 / (1 + error), "loss": error}

    def totals_form(self) -> Form:
        return {"loss": ((1,), torch.float64), "examples": ((1,), torch.int64)}

    def totals_problem(self, totals: Mapping[str, Tensor], examples: int) -> str | None:
        if int(totals["examples"]) != examples:
            return "it counted another number of examples than it has"
        return super().totals_problem(totals, examples)
