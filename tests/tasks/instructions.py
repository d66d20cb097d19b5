"""Prompts and responses of a few words, and tiny language models that learn them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

import tiny
from fibecfed.config import Config, load_config
from fibecfed.data import Rows, TokenizedSet, tokenize
from fibecfed.models import CausalModel, load_pretrained
from fibecfed.tasks import CausalLanguageModel, Conversation
from fibecfed.tasks.causal_lm import of_prompt, with_template
from fibecfed.tasks.causal_lm.encoding import encode
from fibecfed.tuning import TUNINGS, Layout

ARCHITECTURES = ("llama", "gpt2", "qwen2")
TASK = CausalLanguageModel(("all",))
PAIRS = (
    ("thank you", "great service"),
    ("the lid", "my money back and the same month"),
    ("blue kettle", "no"),
    ("how do I change", "the account"),
)


def folder(kind: str) -> Path:
    return tiny.folder(kind, auto=AutoModelForCausalLM)


def write(path: Path, records: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def records(count: int) -> list[dict[str, str]]:
    """So many prompts and responses, in two groups."""
    words = " ".join(tiny.WORDS).split()
    return [
        {"prompt": words[i % len(words)], "response": " ".join(words[i % 7 : i % 7 + 1 + i % 3]), "topic": "ab"[i % 2]}
        for i in range(count)
    ]


def settings(file: Path, kind: str = "llama", **others: Any) -> Config:
    sections: dict[str, Any] = {
        "data": {"file": str(file), "prompt": "prompt", "max_length": 64, **others.pop("data", {})},
        "federation": {"devices": 4, "sampled": 2, "rounds": 3, **others.pop("federation", {})},
        "model": {"name": str(folder(kind))},
        "training": {"learning_rate": 0.01, "batch_size": 4, **others.pop("training", {})},
        "lora": {"rank": 2, "alpha": 4},
    }
    return load_config(**sections, **others)


@dataclass(frozen=True)
class Built:
    """A tiny language model with LoRA that is not zero, and tokenised conversations of different lengths."""

    pretrained: Any
    model: CausalModel
    layout: Layout
    data: TokenizedSet

    def batch(self, *positions: int) -> Any:
        return self.data.batch(np.array(positions or range(len(self.data))))


def build(kind: str, precision: str = "fp32", pairs: Sequence[tuple[str, str]] = PAIRS) -> Built:
    config = load_config(
        model={"name": str(folder(kind))}, lora={"rank": 2, "alpha": 4}, runtime={"precision": precision},
        data={"file": "none.jsonl", "prompt": "prompt"},
    )  # fmt: skip
    pretrained = load_pretrained(config.model, 0, precision, generates=True)
    with_template(pretrained.tokenizer)
    tuned: Any = TUNINGS["lora"].attach(pretrained, 0, config, 0)
    layout = TUNINGS["lora"].layout(tuned, pretrained.config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if parameter.requires_grad:
                assert "lora_" in name
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return Built(pretrained, tuned, layout, tokens(pretrained.tokenizer, pairs))


def tokens(tokenizer: Any, pairs: Sequence[tuple[str, str]], limit: int = 64, everything: bool = False) -> TokenizedSet:
    conversations = [of_prompt(prompt, response, f"row {i}") for i, (prompt, response) in enumerate(pairs, 1)]
    return tokenised(tokenizer, conversations, limit, everything)


def tokenised(
    tokenizer: Any, conversations: Sequence[Conversation], limit: int = 64, everything: bool = False
) -> TokenizedSet:
    rows = Rows(
        [c.prompt for c in conversations], [c.response for c in conversations],
        np.zeros(len(conversations), dtype=np.int64), ("all",), examples=list(conversations),
    )  # fmt: skip

    def encoder(rows: Any, tokenizer: Any, limit: int, vocabulary: int | None) -> Any:
        return encode(rows.examples, tokenizer, limit, vocabulary, everything)

    return tokenize(rows, tokenizer, limit, None, CausalLanguageModel, encoder)


def learned_text(tokenizer: Any, data: TokenizedSet, position: int) -> str:
    """The tokens of one example that have a loss, as text."""
    batch = data.batch(np.array([position]))
    return str(tokenizer.decode(batch.input_ids[0][batch.targets[0] >= 0]))
