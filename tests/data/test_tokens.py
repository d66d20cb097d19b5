"""Tokenising: ids, padding and segments as the tokenizer itself gives them, and what is cut, counted by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import fibecfed
import tiny
from fibecfed.config import Config
from fibecfed.data import Rows, load_splits, tokenize, tokens
from fibecfed.errors import InputError

WORDS = list("abcdefgh")
CLS, SEP, A, B, C, D = 1, 2, 3, 4, 5, 6


def word_level(limit: int = 1000) -> PreTrainedTokenizerFast:
    """One token a word: [CLS] first [SEP], or [CLS] first [SEP] second [SEP]."""
    vocabulary = {token: i for i, token in enumerate(["[PAD]", "[CLS]", "[SEP]", *WORDS, "[UNK]"])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        model_max_length=limit, model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip


def rows(texts: list[str], pairs: list[str] | None = None) -> Rows:
    return Rows(texts, pairs, np.arange(len(texts)) % 2, ("no", "yes"))


def ids(found: tokens.TokenizedSet, index: int) -> list[int]:
    return found.ids[found.offsets[index] : found.offsets[index + 1]].tolist()


def test_texts_become_ids() -> None:
    found = tokenize(rows(["a b", "c", "zebra d"]), word_level(), 10)
    assert [ids(found, i) for i in range(3)] == [[CLS, A, B, SEP], [CLS, C, SEP], [CLS, 11, D, SEP]]
    assert found.lengths.tolist() == [4, 3, 4] and len(found) == 3
    assert found.targets.tolist() == found.groups.tolist() == [0, 1, 0]
    assert (found.truncated, found.tokens_cut, found.types) == (0, 0, None)


def test_what_is_cut_is_counted() -> None:
    # With [CLS] and [SEP] the texts have 5, 6, 7 and 10 tokens; the limit is 6.
    texts = ["a b c", "a b c d", "a b c d e", "a b c d e f g h"]
    found = tokenize(rows(texts), word_level(), 6)
    assert found.lengths.tolist() == [5, 6, 6, 6]
    assert ids(found, 3) == [CLS, A, B, C, D, SEP]
    assert (found.truncated, found.tokens_cut) == (2, 1 + 4)


def test_of_a_pair_the_longer_text_is_cut() -> None:
    found = tokenize(rows(["a", "a b c d e f"], ["a b c d e f", "b"]), word_level(), 7)
    assert ids(found, 0) == [CLS, A, SEP, A, B, C, SEP]
    assert ids(found, 1) == [CLS, A, B, C, SEP, B, SEP]
    assert (found.truncated, found.tokens_cut) == (2, 6)
    assert found.types is not None
    assert found.types[:7].tolist() == [0, 0, 0, 1, 1, 1, 1]


def test_the_model_may_know_a_shorter_limit() -> None:
    found = tokenize(rows(["a b c d e f g h", "a"]), word_level(limit=5), 100)
    assert found.lengths.tolist() == [5, 3]
    assert (found.truncated, found.tokens_cut) == (1, 5)


def test_batches_of_texts_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    some = rows(["a " * n for n in range(1, 12)], ["b"] * 11)
    whole = tokenize(some, word_level(), 8)
    monkeypatch.setattr(tokens, "_CHUNK", 3)
    parts = tokenize(some, word_level(), 8)
    assert np.array_equal(whole.ids, parts.ids) and np.array_equal(whole.offsets, parts.offsets)
    assert whole.types is not None and parts.types is not None and np.array_equal(whole.types, parts.types)
    assert (whole.truncated, whole.tokens_cut) == (parts.truncated, parts.tokens_cut) == (7, 28)


def test_a_batch_is_padded_on_the_right() -> None:
    found = tokenize(rows(["a b", "c", "d d d"], ["a", "b", "c"]), word_level(), 20)
    batch = found.batch(np.array([1, 0, 1]))
    assert batch.input_ids.tolist() == [[CLS, C, SEP, B, SEP, 0], [CLS, A, B, SEP, A, SEP], [CLS, C, SEP, B, SEP, 0]]
    assert batch.attention_mask.tolist() == [[1] * 5 + [0], [1] * 6, [1] * 5 + [0]]
    assert batch.token_type_ids is not None
    assert batch.token_type_ids.tolist() == [[0, 0, 0, 1, 1, 0], [0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 0]]
    assert batch.targets.tolist() == [1, 0, 1]
    assert {t.dtype for t in (batch.input_ids, batch.attention_mask, batch.targets)} == {torch.int64}


SENTENCE = st.lists(st.sampled_from([*tiny.WORDS, "kettle", "ü", "!?", "twice 12"]), min_size=1, max_size=4).map(
    " ".join
)


@settings(max_examples=25, deadline=None, derandomize=True)
@pytest.mark.parametrize("kind", ["bert", "roberta", "deberta", "llama", "gpt2", "mistral"])
@given(data=st.data())
def test_batches_are_the_tokenizers_own(kind: str, data: st.DataObject) -> None:
    tokenizer = tiny.tokenizer_of(kind)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    texts = data.draw(st.lists(SENTENCE, min_size=1, max_size=6))
    pairs = data.draw(st.none() | st.lists(SENTENCE, min_size=len(texts), max_size=len(texts)))
    limit = data.draw(st.integers(4, 80))
    picked = np.array(data.draw(st.lists(st.integers(0, len(texts) - 1), min_size=1, max_size=5)))
    found = tokenize(rows(texts, pairs), tokenizer, limit)
    expected = tokenizer(
        [texts[i] for i in picked],
        [pairs[i] for i in picked] if pairs else None,
        padding=True, truncation=True, max_length=min(limit, tiny.LENGTH), padding_side="right", return_tensors="pt",
    )  # fmt: skip
    batch = found.batch(picked)
    assert torch.equal(batch.input_ids, expected["input_ids"])
    assert torch.equal(batch.attention_mask, expected["attention_mask"])
    if batch.token_type_ids is not None:
        assert torch.equal(batch.token_type_ids, expected["token_type_ids"])
    assert (batch.token_type_ids is not None) == (pairs is not None and "token_type_ids" in expected)
    whole = tokenizer(texts, pairs)["input_ids"]
    lost = [max(0, len(sequence) - min(limit, tiny.LENGTH)) for sequence in whole]
    assert (found.truncated, found.tokens_cut) == (sum(n > 0 for n in lost), sum(lost))


@settings(max_examples=40, deadline=None, derandomize=True)
@pytest.mark.parametrize("kind", ["bert", "roberta", "deberta", "llama", "gpt2", "mistral"])
@given(data=st.data())
def test_batches_cut_later_are_as_if_the_tokenizer_had_cut_them(kind: str, data: st.DataObject) -> None:
    tokenizer = tiny.tokenizer_of(kind)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    texts = data.draw(st.lists(SENTENCE, min_size=1, max_size=6))
    pairs = data.draw(st.none() | st.lists(SENTENCE, min_size=len(texts), max_size=len(texts)))
    whole = tokenize(rows(texts, pairs), tokenizer, tiny.LENGTH)
    limit = data.draw(st.integers(whole.shortest_cut, 40))
    early = tokenize(rows(texts, pairs), tokenizer, limit)
    picked = np.array(data.draw(st.lists(st.integers(0, len(texts) - 1), min_size=1, max_size=5)))
    late, expected = whole.batch(picked, limit), early.batch(picked)
    if (whole.lengths < tiny.LENGTH).all():  # else a pair was cut to the model's length before
        assert torch.equal(late.input_ids, expected.input_ids)
        assert torch.equal(late.attention_mask, expected.attention_mask)
        if late.token_type_ids is not None:
            assert torch.equal(late.token_type_ids, expected.token_type_ids)
    assert late.attention_mask.sum(dim=1).tolist() == np.minimum(whole.lengths, limit)[picked].tolist()
    assert whole.lengths_within(limit).tolist() == np.minimum(whole.lengths, limit).tolist()


def test_cutting_later_keeps_ends_and_separators() -> None:
    single = tokenize(rows(["a b c d", "a"]), word_level(), 10)
    assert single.batch(np.array([0, 1]), 4).input_ids.tolist() == [[CLS, A, B, SEP], [CLS, A, SEP, 0]]
    pair = tokenize(rows(["a b c d", "a"], ["c d", "a b c d"]), word_level(), 20)
    batch = pair.batch(np.array([0, 1]), 7)
    assert batch.input_ids.tolist() == [[CLS, A, B, SEP, C, D, SEP], [CLS, A, SEP, A, B, C, SEP]]
    assert batch.token_type_ids is not None
    assert batch.token_type_ids.tolist() == [[0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1, 1]]
    assert (single.shortest_cut, pair.shortest_cut) == (3, 5)
    with pytest.raises(ValueError, match="leaves no text; the lowest is 5"):
        pair.batch(np.array([0]), 4)


def test_a_text_without_a_token_is_named() -> None:
    some = rows(["a text", "more", "\x01\x02", "the end"])
    with pytest.raises(InputError, match=r"Text 3 \('\\x01\\x02'\) has no token for this model's tokenizer; remove it"):
        tokenize(some, tiny.tokenizer(decoder=True), 10)
    assert tokenize(some, tiny.tokenizer(decoder=False), 10).lengths[2] == 2  # [CLS] and [SEP]


def test_no_rows_give_an_empty_set() -> None:
    found = tokenize(rows([], []), word_level(), 10)
    assert len(found) == 0 and found.ids.tolist() == [] and found.offsets.tolist() == [0]


def test_a_run_reports_what_was_cut(small: Config) -> None:
    config = fibecfed.load_config(**_nested(small, max_length=8))
    tokenizer = AutoTokenizer.from_pretrained(Path(small.model.name))
    splits = load_splits(config)
    lost = [
        len(sequence) - 8 for part in (splits.train, splits.test) for sequence in tokenizer(part.texts)["input_ids"]
    ]
    found = fibecfed.run(config).summary["data"]
    assert found["truncated_examples"] == sum(n > 0 for n in lost) > 0
    assert found["tokens_cut"] == sum(n for n in lost if n > 0)


def _nested(config: Config, max_length: int) -> dict[str, object]:
    content = fibecfed.config.to_dict(config)
    content["data"]["max_length"] = max_length
    content["federation"]["rounds"] = 1
    return content
