"""Using a finished run of a language model: its answers to prompts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, TextStreamer

from fibecfed.config import Config
from fibecfed.errors import InputError
from fibecfed.runs.prediction import loaded
from fibecfed.tasks.causal_lm import Turn, end_tokens, of_prompt, prompt_text

MAX_NEW_TOKENS = 200


@dataclass(frozen=True)
class LanguageModel:
    """A trained language model with its tokenizer, whose chat template is that of the training."""

    model: Any
    tokenizer: Any
    config: Config

    def prompt_ids(self, turns: Sequence[Turn]) -> torch.Tensor:
        """(1, T) the tokens that an answer to these turns follows."""
        text = prompt_text(self.tokenizer, turns)
        found: torch.Tensor = self.tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        return found

    @property
    def places(self) -> int | None:
        """How many tokens prompt and answer can have together; None: any number."""
        found: int | None = self.model.places
        return found

    def has_room(self, ids: torch.Tensor, new_tokens: int) -> bool:
        """Whether so many tokens can follow a prompt (1, T)."""
        return self.places is None or ids.shape[1] + new_tokens <= self.places

    def answer(
        self,
        prompt: str | Sequence[Turn],
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        temperature: float = 0.0,
        seed: int = 0,
        say: Callable[[str], None] | None = None,
    ) -> str:
        """The answer to a prompt, or to turns; ``say`` gets its pieces as they come.

        ``temperature`` 0 takes the most probable token each time; above it tokens are drawn, by ``seed``.
        Raises InputError for an empty prompt, and where prompt and answer have more tokens than the model has places.
        """
        if isinstance(prompt, str):
            if not prompt.strip():
                raise InputError("The prompt is empty; there is nothing to answer.")
            turns: Sequence[Turn] = of_prompt(prompt, "", "The prompt").turns[:-1]
        else:
            turns = prompt
        if max_new_tokens < 1 or temperature < 0:
            raise InputError("An answer needs at least one new token and a temperature of 0 or more.")
        ids = self.prompt_ids(turns)
        if not self.has_room(ids, max_new_tokens):
            raise InputError(
                f"The prompt has {ids.shape[1]} tokens and the model {self.places} places, which leaves no room for "
                f"{max_new_tokens} new ones; shorten the prompt, or ask for fewer."
            )
        pieces: list[str] = []
        settings = GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=temperature > 0,
            temperature=temperature if temperature > 0 else None,
            top_k=0 if temperature > 0 else None,
            pad_token_id=self.tokenizer.pad_token_id,
            bos_token_id=self.tokenizer.bos_token_id,
            eos_token_id=end_tokens(self.tokenizer),
            use_cache=True,
        )

        def keep(piece: str) -> None:
            pieces.append(piece)
            if say is not None and piece:
                say(piece)

        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model.generator.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                generation_config=settings,
                streamer=_Pieces(self.tokenizer, keep),
            )
        return "".join(pieces)


class _Pieces(TextStreamer):  # type: ignore[misc]
    """Hands over text as it comes."""

    def __init__(self, tokenizer: Any, keep: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._keep = keep

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """As the base class calls it."""
        self._keep(text)


def load_language_model(directory: Path | str, device: int | str | None = None) -> LanguageModel:
    """The global model of a finished run, or one device's own, as ``load`` has them for classifiers.

    Raises InputError as ``load``, and for the run of a classifier.
    """
    found = loaded(directory, device)
    if not found.task.generates:
        raise InputError(f"'{directory}' is a run of task.kind={found.task.kind}, which classifies; use fibecfed.load.")
    return LanguageModel(found.model, found.tokenizer, found.config)
