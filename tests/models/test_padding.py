"""The logits of a text do not depend on what it is batched with, for every architecture and head."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModel,
    AutoTokenizer,
    BigBirdConfig,
    ConvBertConfig,
    FNetConfig,
    PretrainedConfig,
    XLNetConfig,
)

import tiny
from fibecfed import InputError, load_config
from fibecfed.models import load_pretrained
from fibecfed.models.padding import check_padding

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


def saved(folder: Path, config: PretrainedConfig) -> Path:
    """A tiny random model of a configuration, with BERT's kind of tokenizer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoModel.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny.folder("bert")).save_pretrained(folder)
    return folder


COMMON: dict[str, Any] = {
    "vocab_size": 200, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
}  # fmt: skip
READS_PADDING = {
    "fnet": FNetConfig(vocab_size=200, hidden_size=32, num_hidden_layers=2, intermediate_size=64),
    "convbert": ConvBertConfig(**COMMON, embedding_size=32),  # by no more than 0.2 % of its vectors
}
SPARSE = BigBirdConfig(**COMMON, max_position_embeddings=64, block_size=2, num_random_blocks=1)
XLNET = XLNetConfig(vocab_size=200, d_model=32, n_layer=2, n_head=4, d_inner=64)


@pytest.mark.parametrize("head", ["pooled", "native"])
@pytest.mark.parametrize("kind", READS_PADDING)
def test_a_model_that_reads_padding_is_refused(kind: str, head: str, tmp_path: Path) -> None:
    config = load_config(model={"name": str(saved(tmp_path, READS_PADDING[kind])), "head": head})
    with pytest.raises(InputError, match=f"Model '{tmp_path}' .* reads padding: .* Use another model"):
        load_pretrained(config.model, 3)


def test_a_head_that_reads_the_last_position_is_refused_and_pooling_is_not(tmp_path: Path) -> None:
    """XLNet's: one answer alone, another in a batch."""
    folder = saved(tmp_path, XLNET)
    with pytest.raises(InputError, match=r"The own head of .* Set model.head=pooled"):
        load_pretrained(load_config(model={"name": str(folder), "head": "native"}).model, 3)
    built = tiny.build("xlnet", path=folder, lora={"targets": "all-linear"})
    built.randomize()
    torch.testing.assert_close(built.logits(), torch.cat([built.logits(i) for i in ALL]), atol=1e-5, rtol=0)


def test_attention_in_blocks_is_made_full(tmp_path: Path) -> None:
    """BigBird attends otherwise to long inputs than to short ones, and stays with the way of the first short one."""
    folder = saved(tmp_path, SPARSE)
    as_it_is = AutoModel.from_pretrained(folder).eval()
    with pytest.raises(InputError, match="reads padding"):
        check_padding("sparse", as_it_is, AutoTokenizer.from_pretrained(folder), native=False)
    built = tiny.build("bigbird", path=folder)
    built.randomize()
    assert built.data.lengths.max() > 14 > built.data.lengths.min()  # tokens up to which blocks are not used
    together = built.logits()
    torch.testing.assert_close(together, torch.cat([built.logits(i) for i in ALL]), atol=1e-5, rtol=0)
    assert built.pretrained.settings == {"attention_type": "original_full"}
