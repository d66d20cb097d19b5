"""What the heads read of the hidden states: pooling by hand, and the last token of native decoder heads."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForSequenceClassification

import tiny
from fibecfed.models import pool
from fibecfed.tasks import Batch

DECODERS_WITHOUT_PAD = ("gpt2", "qwen2", "qwen3", "mistral", "opt", "gpt_neox")


def test_pooling_by_hand() -> None:
    hidden = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [90.0, 90.0]], [[1.0, 1.0], [2.0, 2.0], [6.0, 0.0]]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    assert pool(hidden, mask, "mean").tolist() == [[2.0, 4.0], [3.0, 1.0]]
    assert pool(hidden, mask, "cls").tolist() == [[1.0, 2.0], [1.0, 1.0]]
    assert pool(hidden, mask, "last").tolist() == [[3.0, 6.0], [6.0, 0.0]]


def test_mean_of_the_hidden_states_of_a_plain_model() -> None:
    built = tiny.build("bert")
    batch = built.batch(0)
    with torch.no_grad():
        hidden = built.pretrained.backbone(input_ids=batch.input_ids).last_hidden_state[0]
        expected = built.model.head(hidden.mean(dim=0))
    torch.testing.assert_close(built.logits(0, 1)[0], expected)


@pytest.mark.parametrize("kind", DECODERS_WITHOUT_PAD)
def test_pad_token_falls_back_to_the_end_token(kind: str) -> None:
    assert tiny.tokenizer_of(kind).pad_token is None
    tokenizer = tiny.build(kind).pretrained.tokenizer
    assert tokenizer.pad_token == tokenizer.eos_token is not None


def _native_logits_at(built: tiny.Built, batch: Batch, position: int) -> torch.Tensor:
    """Every token's logits from the model's own score layer; those at ``position`` of the first example."""
    seen = []
    handle = built.model.backbone.base_model.model.score.register_forward_hook(lambda _, __, out: seen.append(out))
    with torch.no_grad():
        logits = built.model(batch)
    handle.remove()
    torch.testing.assert_close(logits[0], seen[0][0, position].float(), atol=0, rtol=0)
    return logits[0]


@pytest.mark.parametrize("kind", [*DECODERS_WITHOUT_PAD, "llama"])
def test_native_head_reads_the_last_token_though_padding_is_the_end_token(kind: str) -> None:
    built = tiny.build(kind, "native")
    built.randomize()
    short, long = 0, 1
    last = int(built.data.lengths[short]) - 1
    padded = built.batch(short, long)
    assert padded.input_ids.shape[1] > last + 1
    _native_logits_at(built, padded, last)
    _native_logits_at(built, built.batch(short), last)


def test_an_end_token_typed_into_a_text_is_passed_over_alone_and_in_a_batch() -> None:
    """What the class in transformers does; the adapter then means the same there."""
    built = tiny.build("gpt2", "native")
    built.randomize()
    end = built.pretrained.tokenizer.eos_token_id
    plain = built.batch(0)
    column = torch.tensor([[end]])
    ended = replace(
        plain,
        input_ids=torch.cat([plain.input_ids, column], dim=1),
        attention_mask=torch.ones(1, plain.input_ids.shape[1] + 1, dtype=torch.int64),
    )
    last = plain.input_ids.shape[1] - 1
    alone = _native_logits_at(built, ended, last)
    other = built.batch(1)
    width = other.input_ids.shape[1]
    filled = torch.full((1, width), end)
    filled[:, : last + 2] = ended.input_ids
    both = Batch(
        torch.cat([filled, other.input_ids]),
        torch.stack([torch.arange(width) < last + 2, torch.ones(width)]).long(),
        torch.zeros(2, dtype=torch.int64),
    )
    torch.testing.assert_close(_native_logits_at(built, both, last), alone, atol=1e-5, rtol=0)


def test_native_logits_are_those_of_the_class_in_transformers() -> None:
    built = tiny.build("qwen3", "native")
    stock = AutoModelForSequenceClassification.from_pretrained(tiny.folder("qwen3"), num_labels=3)
    stock.score.load_state_dict(built.model.backbone.base_model.model.score.original_module.state_dict())
    stock.config.pad_token_id = built.pretrained.tokenizer.pad_token_id
    batch = built.batch()
    with torch.no_grad():
        expected = stock.eval()(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    torch.testing.assert_close(built.logits(), expected)
