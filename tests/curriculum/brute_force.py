"""The oracle of per-example gradients: one example at a time, unpadded, through plain autograd."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import peft
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModel
from transformers.pytorch_utils import Conv1D

import tiny
from fibecfed.data import TokenizedSet
from fibecfed.models import blocks, pool
from fibecfed.tasks import Batch
from fibecfed.tuning.targets import lora_targets

CLASSES = 3
VOCABULARY = 40


@dataclass(frozen=True)
class Choice:
    """One label of CLASSES, in the precision of the model."""

    outputs: int = CLASSES

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        return functional.cross_entropy(model(batch), batch.targets, reduction="none")

    @staticmethod
    def training_scale(batch: Batch) -> None:
        return None

    def counts(self, outputs: Tensor, batch: Batch) -> Any:
        raise NotImplementedError

    def metrics(self, counts: Any) -> dict[str, float]:
        raise NotImplementedError


class Reader(nn.Module):
    """A Hugging Face backbone, pooled over real tokens, and a head; nothing changes precision on the way."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(16, CLASSES)

    def forward(self, batch: Batch) -> Tensor:
        hidden = self.backbone(input_ids=batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
        return self.head(pool(hidden, batch.attention_mask, "mean"))

    @property
    def first_block(self) -> nn.Module:
        return blocks(self.backbone, self.backbone.config)[0]


def transformer(
    kind: str, targets: str = "auto", rank: int = 2, seed: int = 0, dtype: torch.dtype = torch.float64, layers: int = 2
) -> tuple[Reader, list[str]]:
    """A tiny random model with large random LoRA in evaluation mode, and its LoRA parameters' names."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        bare = AutoModel.from_config(tiny.config(kind, VOCABULARY, layers)).requires_grad_(False)
        settings = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=lora_targets(bare, targets))
        model = Reader(peft.get_peft_model(bare, settings))
        names = [name for name, _ in model.named_parameters() if ".lora_" in name]
        for name, parameter in model.named_parameters():
            if name in names:
                nn.init.normal_(parameter, std=0.3)
    return model.to(dtype).eval(), names


def padded(lengths: Sequence[int], seed: int = 0) -> Batch:
    """Random examples of these lengths with random labels."""
    generator = torch.Generator().manual_seed(seed)
    width = max(lengths)
    ids = torch.randint(4, VOCABULARY, (len(lengths), width), generator=generator)
    mask = (torch.arange(width) < torch.tensor(lengths)[:, None]).long()
    labels = torch.randint(CLASSES, (len(lengths),), generator=generator)
    return Batch(ids * mask, mask, labels)


def examples(lengths: Sequence[int], seed: int = 0) -> TokenizedSet:
    """The same as a tokenised set."""
    batch = padded(lengths, seed)
    return TokenizedSet(
        ids=batch.input_ids[batch.attention_mask.bool()].numpy().astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        targets=batch.targets.numpy(),
        groups=batch.targets.numpy(),
        pad_id=0,
    )


def unpadded(batch: Batch, row: int) -> Batch:
    """One example without its padding."""
    row_only, length = batch.rows(row, row + 1), int(batch.attention_mask[row].sum())
    return Batch(row_only.input_ids[:, :length], row_only.attention_mask[:, :length], row_only.targets)


def gradients(model: nn.Module, task: Any, batch: Batch, names: Sequence[str]) -> list[dict[str, Tensor]]:
    """Each example's own gradient by parameter name; a parameter that the loss does not need has zeros."""
    parameters = dict(model.named_parameters())
    wanted = [parameters[name] for name in names]
    asked = [p.requires_grad for p in wanted]
    found = []
    for p in wanted:
        p.requires_grad_(True)
    for row in range(len(batch)):
        loss = task.losses(model, unpadded(batch, row)).sum()
        each = torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)
        found.append(dict(zip(names, each, strict=True)))
    for p, before in zip(wanted, asked, strict=True):
        p.requires_grad_(before)
    return found


def squared_norms(found: Sequence[dict[str, Tensor]]) -> Tensor:
    """(B,) float64"""
    return torch.stack(
        [
            sum((g.double().square().sum() for g in each.values()), torch.zeros((), dtype=torch.float64))
            for each in found
        ]
    )


class Toy(nn.Module):
    """Embedding, two linear maps with bias and a Conv1D; no attention, so padding is masked by the pooling."""

    def __init__(self, inner: int = 5, width: int = 4, padding_idx: int | None = None, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embedding = nn.Embedding(VOCABULARY, width, padding_idx=padding_idx)
            self.wide = nn.Linear(width, inner)
            self.conv = Conv1D(width, inner)
            self.norm = nn.LayerNorm(width)
            self.unused = nn.Linear(width, width)
            self.head = nn.Linear(width, CLASSES)
            for parameter in self.parameters():
                nn.init.normal_(parameter)
        self.double().eval()

    def forward(self, batch: Batch) -> Tensor:
        hidden = self.embedding(batch.input_ids)
        hidden = self.norm(hidden + self.conv(torch.tanh(self.wide(hidden))))
        return self.head(pool(hidden, batch.attention_mask, "mean"))


TOY_NAMES = [
    "embedding.weight", "wide.weight", "wide.bias", "conv.weight", "conv.bias", "norm.weight", "norm.bias",
    "head.weight", "head.bias",
]  # fmt: skip
