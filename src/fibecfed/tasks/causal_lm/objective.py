"""The objective of a language model: log-likelihood of responses, and how it is judged, token by token."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from fibecfed.config import Config
from fibecfed.tasks.base import IGNORED, Batch, Counts, Encoded, Form, Task, TextRows
from fibecfed.tasks.causal_lm.answers import Answers
from fibecfed.tasks.causal_lm.encoding import encode
from fibecfed.tasks.causal_lm.template import note_on_template, with_template

_MOST_NATS = 700.0  # above it, exp overflows


@dataclass(frozen=True)
class CausalLanguageModel(Task):
    """The next token, at every learned token of a conversation.

    What a model says of a batch is (B, T, 2): -log p of the token at each learned place, and 1 where that token was the
    most probable one; 0 elsewhere. The loss of an example is the sum, -log p of its responses. Training takes the mean
    over a batch's learned tokens, as language models are usually trained. Source: docs/method.md section 12 [D].
    """

    kind: ClassVar[str] = "causal-lm"
    metric: ClassVar[str] = "loss"
    lower_is_better: ClassVar[bool] = True
    judged_by: ClassVar[str] = "token_probability"
    generates: ClassVar[bool] = True

    group_names: tuple[str, ...] = ()

    @classmethod
    def of(cls, names: Sequence[str], extra_metrics: Sequence[str] = ()) -> "CausalLanguageModel":
        """``names``: of the groups."""
        return cls(tuple(names))

    @property
    def outputs(self) -> int:
        """No head of its own."""
        return 0

    def named(self) -> dict[str, list[str]]:
        """No outputs with names; the groups."""
        return {"labels": [], "groups": list(self.group_names)}

    @staticmethod
    def targets(rows: TextRows) -> np.ndarray:
        """(N,) zeros: what is learned stands at the tokens."""
        return np.zeros(len(rows.texts), dtype=np.int64)

    @staticmethod
    def groups(rows: TextRows) -> np.ndarray:
        """The categories."""
        return rows.labels.astype(np.int64)

    @property
    def group_count(self) -> int:
        return max(1, len(self.group_names))

    @staticmethod
    def encoder(config: Config) -> Callable[[Any, Any, int, int | None], Encoded]:
        return partial(_encoded, everything=config.data.train_on == "all")

    @staticmethod
    def answering(config: Config, tokenizer: Any) -> Answers | None:
        return Answers(config, tokenizer) if config.evaluation.generate else None

    @staticmethod
    def prepare(tokenizer: Any) -> None:
        """A chat template, where it has none."""
        with_template(tokenizer)

    @staticmethod
    def note(tokenizer: Any) -> str | None:
        return note_on_template(tokenizer)

    @staticmethod
    def trial_targets(ids: Tensor) -> Tensor:
        return ids

    @staticmethod
    def training_scale(batch: Batch) -> float:
        return len(batch) / int((batch.targets[:, 1:] != IGNORED).sum())

    @staticmethod
    def units(targets: np.ndarray) -> int:
        """Learned tokens."""
        return int((targets != IGNORED).sum())

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        losses: Tensor = model(batch)[..., 0].sum(dim=1)
        return losses

    def counts(self, outputs: Tensor, batch: Batch) -> Counts:
        """ "loss" (B,), "tokens" (B,) and "correct" (B,), of which the first is in nats."""
        return Counts(
            {
                "loss": outputs[..., 0].double().sum(dim=1).cpu().numpy(),
                "tokens": (batch.targets[:, 1:] != IGNORED).sum(dim=1).cpu().numpy(),
                "correct": outputs[..., 1].sum(dim=1).round().long().cpu().numpy(),
            }
        )

    def metrics(self, counts: Counts) -> dict[str, float]:
        """loss (nats a token), perplexity and token_accuracy, over all learned tokens."""
        tokens = int(counts.values["tokens"].sum()) if counts.values else 0
        if not tokens:
            return {}
        loss = float(counts.values["loss"].sum() / tokens)
        return {
            self.metric: loss,
            "perplexity": math.exp(min(loss, _MOST_NATS)),
            "token_accuracy": float(counts.values["correct"].sum() / tokens),
        }

    def totals_form(self) -> Form:
        whole = ((1,), torch.int64)
        return {"loss": ((1,), torch.float64), "tokens": whole, "correct": whole}

    def totals_problem(self, totals: Mapping[str, Tensor], examples: int) -> str | None:
        tokens, correct = int(totals["tokens"]), int(totals["correct"])
        if tokens < examples or not 0 <= correct <= tokens:
            return "its counts of tokens contradict one another"
        return super().totals_problem(totals, examples)

    def judged(self, counts: Counts) -> np.ndarray:
        """(2, 1): exp(-loss), the geometric mean of the probabilities of learned tokens, by the examples."""
        examples = len(counts.values["loss"])
        return np.array([[math.exp(-self.metrics(counts)["loss"]) * examples], [examples]], dtype=np.float64)

    @staticmethod
    def is_warm(config: Config, judged: Sequence[float], outputs: int) -> bool:
        """Once -log of the judgement has fallen by warm_up.fall of the first (docs/method.md section 12 [D])."""
        first, last = (-math.log(max(value, math.exp(-_MOST_NATS))) for value in (judged[0], judged[-1]))
        return last <= (1 - config.warm_up.fall) * first


def _encoded(rows: Any, tokenizer: Any, limit: int, vocabulary: int | None, everything: bool) -> Encoded:
    return encode(rows.examples or (), tokenizer, limit, vocabulary, everything)
