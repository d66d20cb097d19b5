"""A pooled classifier that reads vectors of a prompt before the text: what the four kinds of prompt share.

The prompt stands before the whole input, its attention mask is 1 and its token type 0. The head pools the text's own
tokens only, so that pooling means the same for every kind and logits do not depend on padding (project decision).
"""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fibecfed.config import Config
from fibecfed.errors import InputError
from fibecfed.models import PooledClassifier, Pretrained, model_inputs, pool
from fibecfed.tasks import Batch
from fibecfed.tuning.kind import Tuning, pooling_of


class PromptedClassifier(PooledClassifier):
    """Prompt (B, P, e) and word embeddings (B, T, e) -> backbone -> pooling over the text -> linear head."""

    @property
    def base(self) -> Any:
        """The backbone itself, without what PEFT puts around it."""
        backbone: Any = self.backbone
        return backbone.base_model

    @abstractmethod
    def prompt_vectors(self, batch: Batch, embedded: Tensor) -> Tensor:
        """(B, P, e) or (1, P, e) for a batch whose word embeddings are ``embedded`` (B, T, e)."""

    def features(self, batch: Batch) -> Tensor:
        """The text's pooled vectors (B, d), read after the prompt."""
        inputs = model_inputs(batch, self.base.config)
        embedded = self.base.get_input_embeddings()(inputs.pop("input_ids"))
        prompt = self.prompt_vectors(batch, embedded).to(embedded.dtype).expand(len(batch), -1, -1)
        length = prompt.shape[1]
        inputs = behind_prompt(inputs, length)
        hidden = self.base(inputs_embeds=torch.cat([prompt, embedded], dim=1), **inputs).last_hidden_state
        return pool(hidden[:, length:].float(), batch.attention_mask, self.pooling)

    @torch.no_grad()
    def sentence_vectors(self, batch: Batch) -> Tensor:
        """What the frozen backbone alone makes of the text, pooled, (B, d)."""
        hidden = self.base(**model_inputs(batch, self.base.config)).last_hidden_state
        return pool(hidden.float(), batch.attention_mask, self.pooling)


def behind_prompt(inputs: dict[str, Tensor], length: int) -> dict[str, Tensor]:
    """Attention mask and token types (B, T) with ``length`` places for a prompt before them."""
    return {
        name: functional.pad(tensor, (length, 0), value=1 if name == "attention_mask" else 0)
        for name, tensor in inputs.items()
    }


class PromptNetwork(nn.Module):
    """v (B, d) -> W2 relu(W1 v + b1) + b2 as P vectors: (B, P, e). w (d + 1) + P e (w + 1) parameters."""

    def __init__(self, hidden: int, width: int, length: int, embedding: int) -> None:
        super().__init__()
        self.first = nn.Linear(hidden, width)
        self.second = nn.Linear(width, length * embedding)
        self.length = length

    def forward(self, vectors: Tensor) -> Tensor:
        return self.second(functional.relu(self.first(vectors))).view(len(vectors), self.length, -1)


class PromptKind(Tuning):
    """A kind whose prompt takes ``prompt.length`` positions from the text and whose head is pooled."""

    def positions(self, config: Config) -> int:
        return config.prompt.length

    def role(self, name: str, layer: int | None) -> str:
        return "head" if name.startswith("head.") else "prompt"

    def check(self, config: Config, *, trains_prompt: bool) -> None:
        """Raise InputError for settings that this kind cannot have or has no use for."""
        require_pooled(config, self.name)
        if config.prompt.init is not None and not trains_prompt:
            raise InputError(f"prompt.init says where a trained prompt starts; tuning={self.name} makes its prompts.")

    def sizes(self, pretrained: Pretrained, config: Config) -> tuple[str, int]:
        """Pooling and d."""
        return pooling_of(config, pretrained.decoder), int(pretrained.config.hidden_size)


def require_pooled(config: Config, name: str) -> None:
    """What prompts and prefixes cannot do. Raises InputError."""
    if config.model.head == "native":
        raise InputError(
            f"tuning={name} needs model.head=pooled: a model's own head reads a fixed place of the input, where the "
            "prompt stands now, or is thrown off by padding."
        )
    if config.training.cache_mb not in ("auto", 0):
        raise InputError(
            f"training.cache_mb keeps hidden states that no training changes; with tuning={name} there are none that "
            "it could use. Set it to auto."
        )


def embedding_table(pretrained: Pretrained) -> Tensor:
    """(V, e) word embeddings in fp32."""
    return pretrained.backbone.get_input_embeddings().weight.detach().float()  # type: ignore[operator]


def drawn_from_vocabulary(pretrained: Pretrained, length: int) -> Tensor:
    """(P, e) embeddings of P tokens drawn by torch's generator, special tokens left out; with replacement."""
    table = embedding_table(pretrained)
    special = torch.tensor(pretrained.tokenizer.all_special_ids)
    known = torch.arange(min(len(table), len(pretrained.tokenizer)))
    plain = known[~torch.isin(known, special)]
    return table[plain[torch.randint(len(plain), (length,))]]
