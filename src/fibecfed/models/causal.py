"""A causal language model that says how probable each learned token is, with its head at those places only."""

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import GenerationConfig

from fibecfed.errors import InputError
from fibecfed.models.pooled import model_inputs
from fibecfed.tasks import IGNORED, Batch

_MOST_LOGITS = 2**24  # entries of logits held at once: 64 MiB in fp32
PROBE = 4  # tokens
_SAME = {torch.float32: 1e-4}  # how far rounding moves what a model says that is made in two ways, relative (L2)
_SAME_OF_HALF = 0.05


class CausalModel(nn.Module):
    """``AutoModelForCausalLM``, perhaps inside PEFT; calling it gives (B, T, 2) in fp32.

    At each learned token -log p of it and 1 where it was the most probable one; 0 at the others. The logits are made of
    learned tokens only and in pieces of ``most`` entries, so that their memory does not grow with prompts.
    Source: docs/method.md section 12 [D].
    """

    def __init__(self, backbone: Any, most: int = _MOST_LOGITS) -> None:
        super().__init__()
        self.backbone = backbone
        self._most = most

    def forward(self, batch: Batch) -> Tensor:
        language_model = language_model_of(self.backbone)
        hidden = self.hidden(batch)
        learned = batch.targets[:, 1:] != IGNORED
        said = self._said(
            language_model.get_output_embeddings(), hidden[:, :-1][learned], batch.targets[:, 1:][learned]
        )
        result = said.new_zeros((*batch.targets.shape, 2))
        result[:, 1:][learned] = said
        return result

    @property
    def places(self) -> int | None:
        """How many tokens prompt and answer can have together; None: any number."""
        return getattr(language_model_of(self.backbone).config, "max_position_embeddings", None)

    def generated(self, prompts: Sequence[np.ndarray], most: int, pad: int, ends: Sequence[int]) -> list[np.ndarray]:
        """The most probable next tokens after each prompt (n,), at most so many, up to one of ``ends`` (with it)."""
        width = max(map(len, prompts))
        ids = np.full((len(prompts), width), pad, dtype=np.int64)
        for row, prompt in zip(ids, prompts, strict=True):
            row[width - len(prompt) :] = prompt
        real = np.arange(width) >= width - np.array([[len(prompt)] for prompt in prompts])
        settings = GenerationConfig(
            max_new_tokens=most, do_sample=False, pad_token_id=pad, eos_token_id=list(ends), use_cache=True
        )
        device = language_model_of(self.backbone).device
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            found = self.generator.generate(
                torch.from_numpy(ids).to(device),
                attention_mask=torch.from_numpy(real.astype(np.int64)).to(device),
                generation_config=settings,
            )
        return [_up_to(row, ends) for row in found[:, width:].cpu().numpy()]

    def hidden(self, batch: Batch) -> Tensor:
        """(B, T, d) last hidden states of the text's tokens."""
        return hidden_states(language_model_of(self.backbone), model_inputs(batch, self.backbone.config), 0)

    @property
    def generator(self) -> Any:
        """What answers with all that was trained: what PEFT puts before a text is only in its own ``generate``."""
        settings = getattr(self.backbone, "active_peft_config", None)
        if settings is not None and settings.is_prompt_learning:
            return self.backbone
        return language_model_of(self.backbone)

    def _said(self, head: nn.Module, hidden: Tensor, tokens: Tensor) -> Tensor:
        """(n, 2) of n vectors (n, d) and the tokens (n,) that follow them."""
        step = max(1, self._most // int(head.weight.shape[0]))  # type: ignore[union-attr,index]
        if len(hidden) <= step:
            return _of_piece(head, hidden, tokens)
        pieces = []
        for start in range(0, len(hidden), step):
            part = slice(start, start + step)
            # Recomputed in the backward pass, or all pieces' logits would be there at once.
            pieces.append(checkpoint(_of_piece, head, hidden[part], tokens[part], use_reentrant=False))
        return torch.cat(pieces)


def _up_to(tokens: np.ndarray, ends: Sequence[int]) -> np.ndarray:
    """Without what pads behind the first end."""
    places = np.flatnonzero(np.isin(tokens, ends))
    return tokens[: places[0] + 1] if len(places) else tokens


def language_model_of(backbone: Any) -> Any:
    """The model with its head, taken out of PEFT."""
    return backbone.get_base_model() if hasattr(backbone, "get_base_model") else backbone


def check_head(name: str, language_model: Any) -> None:
    """Raise InputError where logits are not the output embeddings times the last hidden states, and nothing else."""
    head, ids = language_model.get_output_embeddings(), torch.arange(1, PROBE + 1, device=language_model.device)[None]
    batch = Batch(ids, torch.ones_like(ids), ids)
    same = False
    if head is not None and hasattr(head, "weight") and language_model.base_model is not language_model:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            own = language_model(input_ids=ids).logits.double()
            made = head(hidden_states(language_model, model_inputs(batch, language_model.config), 0)).double()
        same = same_but_for_rounding(made, own, next(language_model.parameters()).dtype)
    if not same:
        raise InputError(
            f"Model '{name}' ({type(language_model).__name__}) makes its logits in a way of its own (not head times "
            "last hidden states), which task.kind=causal-lm does not take; use another model."
        )


def same_but_for_rounding(one: Tensor, other: Tensor, dtype: torch.dtype) -> bool:
    """Whether two ways to make what a model of this type says come to the same."""
    limit = _SAME.get(dtype, _SAME_OF_HALF)
    return one.shape == other.shape and float((one - other).norm()) <= limit * float(other.norm())


def hidden_states(language_model: Any, inputs: dict[str, Any], before: int) -> Tensor:
    """(B, T, d) last hidden states of what ``inputs`` hold.

    Places are counted from the first real token, wherever the padding is; ``before``: places that a cache in
    ``inputs`` holds, which the attention mask (B, before + T) has too.
    """
    body = language_model.base_model
    if "position_ids" in inspect.signature(type(body).forward).parameters:
        places = (inputs["attention_mask"].cumsum(dim=1) - 1).clamp_min(0)
        inputs = {**inputs, "position_ids": places[:, before:]}
    hidden: Tensor = body(**inputs).last_hidden_state
    return hidden


def _of_piece(head: nn.Module, hidden: Tensor, tokens: Tensor) -> Tensor:
    logits = head(hidden).float()
    losses = functional.cross_entropy(logits, tokens, reduction="none")
    right = (logits.detach().argmax(dim=-1) == tokens).to(losses.dtype)
    return torch.stack([losses, right], dim=-1)
