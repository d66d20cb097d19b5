"""Texts as token ids: tokenised once, stored flat, padded per batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fibecfed.data.rows import Rows
from fibecfed.errors import InputError, half_character
from fibecfed.tasks import IGNORED, Batch, Classification, Encoded, Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WITHOUT_EMBEDDING = (
    "resize the model where it was made (model.resize_token_embeddings(len(tokenizer)), then save_pretrained), or take "
    "the token out of its tokenizer"
)
Encoder = Callable[[Any, Any, int, int | None], Encoded]  # see ``Task.encoder``
_CHUNK = 4096  # texts handed to the tokenizer at once


@dataclass(frozen=True)
class TokenizedSet:
    """N tokenised examples in flat arrays: example i is ``ids[offsets[i]:offsets[i+1]]``."""

    ids: np.ndarray  # (sum of lengths,) int32
    offsets: np.ndarray  # (N+1,) int64
    targets: np.ndarray  # (N, ...) what the task learns of each
    groups: np.ndarray  # (N,) int64, the task's group of each
    pad_id: int
    types: np.ndarray | None = None  # (sum of lengths,) uint8, segment of each token
    first: np.ndarray | None = None  # (N,) int64, tokens of the first text of each pair; None: single texts
    special: tuple[int, int, int] | None = (0, 0, 0)  # tokens added before, between, behind; None: not known
    truncated: int = 0  # examples cut to the maximum length
    tokens_cut: int = 0
    by_token: np.ndarray | None = None  # (sum of lengths,) int32, what is learned at each token, in place of targets

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def lengths(self) -> np.ndarray:
        """(N,) tokens of each example."""
        return np.diff(self.offsets)

    def lengths_within(self, limit: int | None) -> np.ndarray:
        """(N,) tokens of each example once cut to ``limit``; None cuts nothing."""
        return self.lengths if limit is None else np.minimum(self.lengths, limit)

    def units(self, task: Task, indices: np.ndarray) -> np.ndarray:
        """(n,) how many single predictions the targets of these examples hold."""
        if self.by_token is None:
            return np.ones(len(indices))
        return np.array([task.units(self.by_token[self.offsets[i] : self.offsets[i + 1]]) for i in indices], np.float64)

    def learned(self, indices: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Tokens (n,) of each of these examples, and what is learned at each (n,), of sets that say so by token."""
        assert self.by_token is not None
        parts = [slice(self.offsets[i], self.offsets[i + 1]) for i in indices]
        return [(self.ids[part], self.by_token[part]) for part in parts]

    @property
    def shortest_cut(self) -> int:
        """The lowest limit that leaves a token of every text beside what the tokenizer adds.

        Raises InputError if it is not known what that is.
        """
        if self.by_token is not None:
            return 2  # one token, and the first that is learned behind it
        if self.special is None:
            raise InputError("Pairs of texts can only be cut with a fast tokenizer, which this model does not have.")
        return sum(self.special) + (1 if self.first is None else 2)

    def batch(self, indices: np.ndarray, limit: int | None = None) -> Batch:
        """The examples at these positions, right-padded to the longest of them.

        With a ``limit``, at least ``shortest_cut``, they are cut to it as the tokenizer itself would cut them: what it
        adds before, between and behind the texts stays, the longer text of a pair is cut first. Where tokens
        are learned, what precedes the first of them goes first, then the end (project decision).
        """
        starts = self.offsets[indices]
        lengths = self.offsets[indices + 1] - starts
        skip = None
        if limit is not None and (lengths > limit).any():
            skip = self._cut(indices, lengths, limit)
            lengths = np.minimum(lengths, limit)
        width = int(lengths.max())
        columns = np.arange(width)
        real = columns < lengths[:, None]
        if skip is not None:
            columns = columns + sum((columns >= begin[:, None]) * count[:, None] for begin, count in skip)
        places = np.where(real, starts[:, None] + columns, 0)
        ids = np.where(real, self.ids[places], self.pad_id)
        types = None
        if self.types is not None:
            types = torch.from_numpy(np.where(real, self.types[places], 0).astype(np.int64))
        targets = self.targets[indices]
        if self.by_token is not None:
            targets = np.where(real, self.by_token[places], IGNORED).astype(np.int64)
        return Batch(
            input_ids=torch.from_numpy(ids.astype(np.int64)),
            attention_mask=torch.from_numpy(real.astype(np.int64)),
            targets=torch.from_numpy(targets),
            token_type_ids=types,
        )

    def _cut(self, indices: np.ndarray, lengths: np.ndarray, limit: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """From which column of each cut row (B,) how many tokens (B,) are left out: of the first text, the second."""
        if limit < self.shortest_cut:
            raise ValueError(f"a limit of {limit} tokens leaves no text; the lowest is {self.shortest_cut}")
        if self.by_token is not None:
            return [(np.zeros(len(indices), dtype=np.int64), self._ahead(indices, lengths - limit))]
        assert self.special is not None
        before, between, _ = self.special
        texts, room = lengths - sum(self.special), limit - sum(self.special)
        if self.first is None:
            kept = np.minimum(texts, room)
            return [(before + kept, texts - kept)]
        first = self.first[indices]
        second = texts - first
        kept_first, kept_second = _longest_first(first, second, room)
        return [
            (before + kept_first, first - kept_first),
            (before + kept_first + between + kept_second, second - kept_second),
        ]

    def _ahead(self, indices: np.ndarray, excess: np.ndarray) -> np.ndarray:
        """(B,) how many of the ``excess`` tokens can go from the beginning, so that what is learned stays; one stays
        before it. The others go from the end.
        """
        assert self.by_token is not None
        first = [int(np.argmax(self.by_token[self.offsets[i] : self.offsets[i + 1]] != IGNORED)) for i in indices]
        return np.clip(excess, 0, np.array(first, dtype=np.int64) - 1)


def _longest_first(first: np.ndarray, second: np.ndarray, room: int) -> tuple[np.ndarray, np.ndarray]:
    """(B,) tokens left of each text of a pair: the longer one is cut to the shorter, then both to half the room.

    Source: truncation "longest_first" of the tokenizers library, which gives an odd token to the second text unless
    the first is longer.
    """
    short, long = np.minimum(first, second), np.maximum(first, second)
    halves = room - short < short
    new_short = np.where(halves, room // 2, short)
    new_long = np.where(halves, room - room // 2, np.minimum(long, room - short))
    fits = first + second <= room
    new_short, new_long = np.where(fits, short, new_short), np.where(fits, long, new_long)
    swapped = first > second
    return np.where(swapped, new_long, new_short), np.where(swapped, new_short, new_long)


def _check_characters(texts: Sequence[str], start: int, count: int) -> None:
    """``count`` texts, and again as many where they are pairs; the first is number ``start``, from 0."""
    for position, text in enumerate(texts):
        if (half := half_character(text)) is not None:
            raise InputError(
                f"Text {start + position % count + 1} has {half}; remove it, or write the whole character."
            )


def tokenize(
    rows: Rows,
    tokenizer: "PreTrainedTokenizerBase",
    max_length: int,
    vocabulary: int | None = None,
    task: type[Task] = Classification,
    encoder: Encoder | None = None,
) -> TokenizedSet:
    """Every row as token ids, cut to ``max_length`` (the longer text of a pair first), with what was cut counted.

    ``encoder``: what makes rows into tokens in the tokenizer's place (``Task.encoder``).
    Raises InputError, naming its position, if a text has no token at all, half a character, or a token that is not
    below ``vocabulary``, the number of the model's embeddings.
    """
    ids: list[np.ndarray] = []
    types: list[np.ndarray] = []
    first: list[int] = []
    truncated = cut = 0
    with_types = rows.pairs is not None and "token_type_ids" in tokenizer.model_input_names
    limit = min(max_length, _model_limit(tokenizer))
    if encoder is not None:
        return _encoded(encoder(rows, tokenizer, limit, vocabulary), rows, tokenizer, task)
    for start in range(0, len(rows), _CHUNK):
        texts = list(rows.texts[start : start + _CHUNK])
        pairs = None if rows.pairs is None else list(rows.pairs[start : start + _CHUNK])
        _check_characters([*texts, *(pairs or ())], start, len(texts))
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
            if vocabulary is not None and max(sequence) >= vocabulary:
                token = tokenizer.convert_ids_to_tokens(max(sequence))
                raise InputError(
                    f"Text {start + i + 1} ({texts[i]!r}) has the token '{token}', which the tokenizer knows and the "
                    f"model has no embedding for; {WITHOUT_EMBEDDING}."
                )
            ids.append(np.asarray(sequence, dtype=np.int32))
        if pairs is not None and encoded.is_fast:
            first.extend(encoded.sequence_ids(i).count(0) for i in range(len(texts)))
        if with_types:
            types.extend(np.asarray(sequence, dtype=np.uint8) for sequence in encoded["token_type_ids"])
    return TokenizedSet(
        ids=_joined(ids, np.int32),
        offsets=np.concatenate([[0], np.cumsum([len(i) for i in ids])]).astype(np.int64),
        targets=task.targets(rows),
        groups=task.groups(rows),
        pad_id=int(tokenizer.pad_token_id or 0),
        types=_joined(types, np.uint8) if with_types else None,
        first=None if rows.pairs is None else np.asarray(first, dtype=np.int64),
        special=_special(tokenizer, rows.pairs is not None),
        truncated=truncated,
        tokens_cut=cut,
    )


def _encoded(found: Encoded, rows: Rows, tokenizer: "PreTrainedTokenizerBase", task: type[Task]) -> TokenizedSet:
    """What a task made into tokens."""
    return TokenizedSet(
        ids=_joined(found.ids, np.int32),
        offsets=np.concatenate([[0], np.cumsum([len(i) for i in found.ids])]).astype(np.int64),
        targets=task.targets(rows),
        groups=task.groups(rows),
        pad_id=int(tokenizer.pad_token_id or 0),
        special=None,
        truncated=found.truncated,
        tokens_cut=found.tokens_cut,
        by_token=_joined(found.targets, np.int32),
    )


def _special(tokenizer: "PreTrainedTokenizerBase", pairs: bool) -> tuple[int, int, int] | None:
    """Tokens that the tokenizer adds before, between and behind texts; None where pairs cannot be told apart."""
    if pairs and not tokenizer.is_fast:
        return None
    added = tokenizer("a", "a" if pairs else None, return_special_tokens_mask=True)["special_tokens_mask"]
    before, behind = [*added, 0].index(0), [*added[::-1], 0].index(0)
    return before, sum(added) - before - behind, behind


def _joined(parts: Sequence[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate(parts) if parts else np.empty(0, dtype)


def _model_limit(tokenizer: "PreTrainedTokenizerBase") -> int:
    return int(min(tokenizer.model_max_length, 10**6))
