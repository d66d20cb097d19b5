"""Answers that a language model gives in evaluation, and how many of them are right; additive over devices."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fibecfed.config import Config
from fibecfed.tasks.base import IGNORED, Counts, Form
from fibecfed.tasks.causal_lm.encoding import end_tokens
from fibecfed.tasks.causal_lm.scoring import SCORES, check_scores

ANSWERED = "answered"


class Answers:
    """Greedy answers to the last prompt of conversations, compared with the last response.

    Both are read as the tokenizer decodes them, without special tokens. Source: docs/method.md section 12 [D].
    Raises InputError if the package of a score is missing.
    """

    def __init__(self, config: Config, tokenizer: Any) -> None:
        settings = config.evaluation
        check_scores(settings.generate)
        self._names = tuple(settings.generate)
        self._tokenizer = tokenizer
        self._most = settings.generate_tokens
        self._batch_size = settings.batch_size
        self._ends = end_tokens(tokenizer)

    def counts(self, model: nn.Module, examples: Sequence[tuple[np.ndarray, np.ndarray]]) -> Counts:
        """Totals over examples, each of which has its tokens (n,) and, of the same form, what is learned at each.

        "answered" (1,), and for each score its sum (1,).
        """
        cut = [(ids, _last_response(learned)) for ids, learned in examples]
        answers = self._answers(model, [ids[:begin] for ids, begin in cut])
        wanted = [self._text(ids[begin:]) for ids, begin in cut]
        values = {ANSWERED: np.array([len(cut)], dtype=np.int64)}
        for name in self._names:
            of_each = [SCORES[name](self._text(a), w) for a, w in zip(answers, wanted, strict=True)]
            values[name] = np.array([sum(of_each)], dtype=np.float64)
        return Counts(values)

    def _answers(self, model: Any, prompts: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Tokens that follow each prompt. Those without room for all that is asked are answered one by one."""
        places = model.places
        rooms = [self._most if places is None else min(self._most, places - len(prompt)) for prompt in prompts]
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        whole = [i for i in order if rooms[i] == self._most]
        together = [whole[start : start + self._batch_size] for start in range(0, len(whole), self._batch_size)]
        answers: dict[int, np.ndarray] = {}
        for chosen in [*together, *([i] for i in order if rooms[i] < self._most)]:
            found = model.generated(
                [prompts[i] for i in chosen], rooms[chosen[0]], self._tokenizer.pad_token_id, self._ends
            )
            answers |= dict(zip(chosen, found, strict=True))
        return [answers[i] for i in range(len(prompts))]

    def _text(self, tokens: np.ndarray) -> str:
        return str(self._tokenizer.decode(tokens.tolist(), skip_special_tokens=True))

    def metrics(self, counts: Counts) -> dict[str, float]:
        """The mean of each score over the examples answered; {} if there are none."""
        answered = int(counts.values[ANSWERED].sum()) if counts.values else 0
        return {name: float(counts.values[name].sum()) / answered for name in self._names} if answered else {}

    def totals_form(self) -> Form:
        """Shape and type of the totals, as a device sends them."""
        return {ANSWERED: ((1,), torch.int64), **dict.fromkeys(self._names, ((1,), torch.float64))}

    def totals_problem(self, totals: Mapping[str, Tensor], examples: int) -> str | None:
        """Why totals of that form cannot be those of so many held-out examples; None if they can."""
        answered = int(totals[ANSWERED])
        if not 0 <= answered <= examples or any(not 0 <= float(totals[name]) <= answered for name in self._names):
            return "its counts of answers contradict one another"
        return None


def _last_response(learned: np.ndarray) -> int:
    """Where the last stretch of learned tokens begins."""
    places = np.flatnonzero(learned != IGNORED)
    gaps = np.flatnonzero(np.diff(places) > 1)
    return int(places[gaps[-1] + 1] if len(gaps) else places[0])
