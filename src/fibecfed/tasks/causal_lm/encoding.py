"""Conversations as token ids, with what is learned at each, cut to a length."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fibecfed.errors import InputError
from fibecfed.tasks.base import IGNORED, Encoded
from fibecfed.tasks.causal_lm.conversation import Conversation, of_prompt
from fibecfed.tasks.causal_lm.template import Rendered, render

_CHUNK = 1024  # conversations handed to the tokenizer at once


def encode(
    conversations: Sequence[Conversation], tokenizer: Any, limit: int, vocabulary: int | None, everything: bool
) -> Encoded:
    """Each conversation as tokens, the learned ones as targets; ``everything``: all but the first token are learned.

    Too long, what others say is cut first, from its left; the template stays; then the end is cut. A response that the
    template does not end gets the tokenizer's end token. Raises InputError naming the place of a conversation without
    a learned token left, or with a token that is not below ``vocabulary``; and for a tokenizer that is not fast.
    Source: project decision (docs/method.md section 12).
    """
    if not tokenizer.is_fast:
        raise InputError(
            "task.kind=causal-lm finds responses by the places of tokens in the text, which only a fast tokenizer "
            "tells; this model has a slow one."
        )
    ids: list[np.ndarray] = []
    targets: list[np.ndarray] = []
    cut: list[int] = []
    for start in range(0, len(conversations), _CHUNK):
        part = conversations[start : start + _CHUNK]
        rendered = [render(tokenizer, conversation) for conversation in part]
        found = tokenizer(
            [r.text for r in rendered], add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        for i, (conversation, text) in enumerate(zip(part, rendered, strict=True)):
            tokens, learned, cuttable = _tokens(tokenizer, text, found["input_ids"][i], found["offset_mapping"][i])
            if everything:
                learned[:] = True
            _check_vocabulary(tokenizer, tokens, vocabulary, conversation.place)
            kept = _kept(cuttable, limit)
            tokens, learned = tokens[kept], learned[kept]
            learned[:1] = False  # nothing precedes the first token, so nothing predicts it
            if not learned.any():
                raise InputError(
                    f"{conversation.place} has no token of its response left in {limit} tokens, since the template and "
                    "the turns before it take them all; raise data.max_length, or shorten the row."
                )
            ids.append(tokens)
            targets.append(np.where(learned, tokens, IGNORED).astype(np.int32))
            cut.append(len(cuttable) - len(tokens))
    return Encoded(ids, targets, sum(n > 0 for n in cut), sum(cut))


def end_tokens(tokenizer: Any) -> list[int]:
    """The tokens that an answer ends with: the tokenizer's end token, and what its template ends responses by."""
    probe = render(tokenizer, of_prompt("a", "b", "A response"))
    found = tokenizer(probe.text, add_special_tokens=False, return_offsets_mapping=True)
    tokens, _, _ = _tokens(tokenizer, probe, found["input_ids"], found["offset_mapping"])
    return sorted({int(tokenizer.eos_token_id), int(tokens[-1])})


def _tokens(
    tokenizer: Any, rendered: Rendered, ids: Sequence[int], places: Sequence[tuple[int, int]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(n,) token ids, whether each holds a part of a response, and whether it lies inside what others say."""
    tokens = np.asarray(ids, dtype=np.int32)
    begins, ends = np.asarray(places, dtype=np.int64).reshape(-1, 2).T
    learned = np.zeros(len(tokens), dtype=bool)
    for begin, end in rendered.responses:
        learned |= (ends > begin) & (begins < end)
    cuttable = np.zeros(len(tokens), dtype=bool)
    for begin, end in rendered.prompts:
        cuttable |= (begins >= begin) & (ends <= end)
    cuttable &= ~learned
    if learned.any():
        end = int(np.flatnonzero(learned)[-1]) + 1  # what the template writes behind it, such as a line's end, goes
        tokens, learned, cuttable = tokens[:end], learned[:end], cuttable[:end]
        if int(tokens[-1]) not in _special(tokenizer):
            tokens = np.append(tokens, np.int32(tokenizer.eos_token_id))
            learned, cuttable = np.append(learned, True), np.append(cuttable, False)
    return tokens, learned, cuttable


def _special(tokenizer: Any) -> set[int]:
    return {*tokenizer.all_special_ids, *(n for n, token in tokenizer.added_tokens_decoder.items() if token.special)}


def _kept(cuttable: np.ndarray, limit: int) -> np.ndarray:
    """Positions that stay: without the first of the tokens that may be cut, then without the last of all."""
    excess = max(0, len(cuttable) - limit)
    gone = np.flatnonzero(cuttable)[:excess]
    return np.setdiff1d(np.arange(len(cuttable)), gone, assume_unique=True)[:limit]


def _check_vocabulary(tokenizer: Any, tokens: np.ndarray, vocabulary: int | None, place: str) -> None:
    if vocabulary is not None and len(tokens) and int(tokens.max()) >= vocabulary:
        token = tokenizer.convert_ids_to_tokens(int(tokens.max()))
        raise InputError(
            f"{place} has the token '{token}', which the tokenizer knows and the model has no embedding for; resize "
            "the model where it was made, or take the token out of its tokenizer."
        )
