"""Texts as token ids: tokenised once, stored flat, padded per batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from fibecfed.data.rows import Rows
from fibecfed.errors import InputError
from fibecfed.tasks import Batch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CHUNK = 4096  # texts handed to the tokenizer at once


@dataclass(frozen=True)
class TokenizedSet:
    """N tokenised examples in flat arrays: example i is ``ids[offsets[i]:offsets[i+1]]``."""

    ids: np.ndarray  # (sum of lengths,) int32
    offsets: np.ndarray  # (N+1,) int64
    labels: np.ndarray  # (N,) int64
    pad_id: int
    types: np.ndarray | None = None  # (sum of lengths,) uint8, segment of each token
    truncated: int = 0  # examples cut to the maximum length
    tokens_cut: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> np.ndarray:
        """(N,) tokens of each example."""
        return np.diff(self.offsets)

    def batch(self, indices: np.ndarray) -> Batch:
        """The examples at these positions, right-padded to the longest of them."""
        starts = self.offsets[indices]
        lengths = self.offsets[indices + 1] - starts
        width = int(lengths.max())
        columns = np.arange(width)
        real = columns < lengths[:, None]
        places = np.where(real, starts[:, None] + columns, 0)
        ids = np.where(real, self.ids[places], self.pad_id)
        types = None
        if self.types is not None:
            types = torch.from_numpy(np.where(real, self.types[places], 0).astype(np.int64))
        return Batch(
            input_ids=torch.from_numpy(ids.astype(np.int64)),
            attention_mask=torch.from_numpy(real.astype(np.int64)),
            labels=torch.from_numpy(self.labels[indices]),
            token_type_ids=types,
        )


def tokenize(rows: Rows, tokenizer: "PreTrainedTokenizerBase", max_length: int) -> TokenizedSet:
    """Every row as token ids, cut to ``max_length`` (the longer text of a pair first), with what was cut counted.

    Raises InputError if a text has no token at all, naming its position.
    """
    ids: list[np.ndarray] = []
    types: list[np.ndarray] = []
    truncated = cut = 0
    with_types = rows.pairs is not None and "token_type_ids" in tokenizer.model_input_names
    limit = min(max_length, _model_limit(tokenizer))
    for start in range(0, len(rows), _CHUNK):
        texts = list(rows.texts[start : start + _CHUNK])
        pairs = None if rows.pairs is None else list(rows.pairs[start : start + _CHUNK])
        encoded = tokenizer(texts, pairs, truncation=True, max_length=limit)
        full = [i for i, sequence in enumerate(encoded["input_ids"]) if len(sequence) >= limit]
        if full:
            whole = tokenizer(
                [texts[i] for i in full], None if pairs is None else [pairs[i] for i in full], verbose=False
            )
            lost = [len(sequence) - limit for sequence in whole["input_ids"]]
            truncated += sum(n > 0 for n in lost)
            cut += sum(lost)
        for i, sequence in enumerate(encoded["input_ids"]):
            if not sequence:
                raise InputError(
                    f"Text {start + i + 1} ({texts[i]!r}) has no token for this model's tokenizer; remove it."
                )
            ids.append(np.asarray(sequence, dtype=np.int32))
        if with_types:
            types.extend(np.asarray(sequence, dtype=np.uint8) for sequence in encoded["token_type_ids"])
    return TokenizedSet(
        ids=_joined(ids, np.int32),
        offsets=np.concatenate([[0], np.cumsum([len(i) for i in ids])]).astype(np.int64),
        labels=rows.labels.astype(np.int64),
        pad_id=int(tokenizer.pad_token_id or 0),
        types=_joined(types, np.uint8) if with_types else None,
        truncated=truncated,
        tokens_cut=cut,
    )


def _joined(parts: Sequence[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate(parts) if parts else np.empty(0, dtype)


def _model_limit(tokenizer: "PreTrainedTokenizerBase") -> int:
    return int(min(tokenizer.model_max_length, 10**6))
