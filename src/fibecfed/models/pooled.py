"""A classifier over a backbone: pooling and one linear layer, or the model's own head."""

from typing import Any

import torch
from torch import Tensor, nn

from fibecfed.tasks import Batch


def pool(hidden: Tensor, mask: Tensor, how: str) -> Tensor:
    """One vector per example. hidden (B, T, d), mask (B, T), right padding -> (B, d)."""
    if how == "cls":
        return hidden[:, 0]
    if how == "last":
        return hidden[torch.arange(len(hidden), device=hidden.device), mask.sum(dim=1) - 1]
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1)


def model_inputs(batch: Batch, config: Any) -> dict[str, Tensor]:
    """The keyword arguments a Hugging Face model takes for a batch."""
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    if batch.token_type_ids is not None and getattr(config, "type_vocab_size", 0) > 1:
        inputs["token_type_ids"] = batch.token_type_ids
    return inputs


class PooledClassifier(nn.Module):
    """backbone -> pooling -> linear head; calling it gives logits (B, C) in fp32."""

    def __init__(self, backbone: nn.Module, pooling: str, hidden: int, outputs: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.pooling = pooling
        self.head = nn.Linear(hidden, outputs)

    def features(self, batch: Batch) -> Tensor:
        """The pooled vectors (B, d) that the head reads."""
        hidden = self.backbone(**model_inputs(batch, self.backbone.config)).last_hidden_state
        return pool(hidden.float(), batch.attention_mask, self.pooling)

    def forward(self, batch: Batch) -> Tensor:
        return self.head(self.features(batch))


class NativeClassifier(nn.Module):
    """AutoModelForSequenceClassification as it is; calling it gives logits (B, C) in fp32.

    Decoders read the last token that is not the pad token, so a pad token that a text itself ends with is
    passed over, alone as in a batch.
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, batch: Batch) -> Tensor:
        return self.backbone(**model_inputs(batch, self.backbone.config)).logits.float()
