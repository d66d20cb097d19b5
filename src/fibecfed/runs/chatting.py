"""A conversation of several turns with a finished run's language model."""

from collections.abc import Callable
from dataclasses import dataclass, field

from fibecfed.errors import InputError
from fibecfed.runs.answering import MAX_NEW_TOKENS, LanguageModel
from fibecfed.seeding import torch_seed
from fibecfed.tasks.causal_lm import Turn


@dataclass
class Chat:
    """Each answer follows all turns before it, written by the template of the training.

    Where they leave no room for ``max_new_tokens``, the oldest turns are forgotten, a question with its answer at a
    time. Temperature and seed are as of ``LanguageModel.answer``; each turn has draws of its own.
    """

    model: LanguageModel
    max_new_tokens: int = MAX_NEW_TOKENS
    temperature: float = 0.0
    seed: int = 0
    turns: list[Turn] = field(default_factory=list)
    asked: int = 0  # questions that were answered
    forgotten: int = 0  # turns that the model had no room for

    def ask(self, text: str, say: Callable[[str], None] | None = None) -> str:
        """The answer; ``say`` gets its pieces as they come.

        Raises InputError, with the conversation as it was, for an empty text and one that has no room on its own.
        """
        if not text.strip():
            raise InputError("The prompt is empty; there is nothing to answer.")
        turns, forgotten = [*self.turns, Turn("user", text)], 0
        while len(turns) > 1 and not self.model.has_room(self.model.prompt_ids(turns), self.max_new_tokens):
            turns, forgotten = turns[2:], forgotten + 2
        answer = self.model.answer(
            turns,
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            seed=torch_seed(self.seed, "chat", self.asked),
            say=say,
        )
        self.turns = [*turns, Turn("assistant", answer)]
        self.asked += 1
        self.forgotten += forgotten
        return answer
