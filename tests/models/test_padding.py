"""The logits of a text do not depend on what it is batched with, for every architecture and head."""

from dataclasses import replace

import pytest
import torch

import tiny

ALL = range(len(tiny.TEXTS))


@pytest.mark.parametrize(("kind", "head"), tiny.EVERY_MODEL)
@pytest.mark.parametrize("pairs", [False, True], ids=["one text", "two texts"])
def test_logits_alone_equal_logits_in_a_padded_batch(kind: str, head: str, pairs: bool) -> None:
    built = tiny.build(kind, head, pairs=pairs)
    assert built.data.lengths.min() < built.data.lengths.max() - 8  # more padding than the narrow windows see
    built.randomize(["head"])
    untuned = built.logits()
    torch.testing.assert_close(untuned, torch.cat([built.logits(i) for i in ALL]), atol=1e-5, rtol=0)

    built.randomize()
    tuned = built.logits()
    torch.testing.assert_close(tuned, torch.cat([built.logits(i) for i in ALL]), atol=1e-5, rtol=0)
    assert (tuned - untuned).abs().max() > 1e-3
    assert (tuned[0] - tuned[1]).abs().max() > 1e-3  # else equal logits would show nothing


@pytest.mark.parametrize("kind", tiny.EVERY_KIND)
def test_without_its_mask_padding_would_be_seen(kind: str) -> None:
    built = tiny.build(kind)
    built.randomize()
    batch = built.batch()
    blind = replace(batch, attention_mask=torch.ones_like(batch.attention_mask))
    shortest = int(built.data.lengths.argmin())
    with torch.no_grad():
        assert (built.model(blind)[shortest] - built.logits(shortest)).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["bert", "deberta"])
def test_the_second_text_has_its_own_token_type(kind: str) -> None:
    built = tiny.build(kind, pairs=True)
    batch = built.batch(0)
    assert batch.token_type_ids is not None
    second = batch.token_type_ids[0].tolist()
    assert second == sorted(second) and set(second) == {0, 1}
    with torch.no_grad():
        moved = built.model(replace(batch, token_type_ids=torch.zeros_like(batch.token_type_ids)))
    same = torch.equal(moved, built.logits(0))
    assert same == (kind == "deberta")  # which has one token type only, and must not be handed two


@pytest.mark.parametrize(
    ("kind", "pooling"),
    [("roberta", "mean"), ("roberta", "cls"), ("roberta", "last"), ("qwen2", "mean"), ("qwen2", "last")],
)
def test_every_pooling(kind: str, pooling: str) -> None:
    built = tiny.build(kind, model={"pooling": pooling})
    built.randomize()
    torch.testing.assert_close(built.logits(), torch.cat([built.logits(i) for i in ALL]), atol=1e-5, rtol=0)
