"""Every kind of LoRA, on every sort of model, is saved as an adapter that plain LoRA loads with the same logits."""

from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from fibecfed.config import load_config
from fibecfed.models import load_pretrained
from fibecfed.tuning import TUNINGS, SavedLora, load_adapter, save_adapter

KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "delta-lora": {"delta": {"start": 0}},
    "svd-lora": {"adalora": {"init_rank": 3}},
    "sparse-lora": {"sparse": {"rounds": 1}},
}


@pytest.mark.parametrize("head", ["pooled", "native"])
@pytest.mark.parametrize("model", ["bert", "gpt2", "llama"])
@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded_by_plain_lora(kind: str, model: str, head: str, tmp_path: Path) -> None:
    config = load_config(
        model={"name": str(tiny.folder(model, 2)), "head": head}, lora={"rank": 2, "alpha": 6}, **KINDS[kind]
    )
    batch = tiny.build(model, head).batch()
    built = [TUNINGS[kind].attach(load_pretrained(config.model, 3, "fp32", 0), 3, config, seed) for seed in (1, 2)]
    generator = torch.Generator().manual_seed(0)
    layout = TUNINGS[kind].layout(built[0], built[0].backbone.config)
    parameters = dict(built[0].named_parameters())
    plain = built[0](batch).detach()
    for p in layout:
        if p.role not in ("ratio", "sparse"):
            parameters[p.name].data.copy_(0.3 * torch.randn(p.shape, generator=generator))
        if p.role == "lora_E":
            parameters[p.name].data[0] = 0
    assert {p.layer for p in layout if p.role != "head"} == {0, 1}
    tokenizer = load_pretrained(config.model, 3).tokenizer
    folder = tmp_path / "adapter"
    folder.mkdir()
    save_adapter(folder, built[0], tokenizer, {}, TUNINGS[kind].saved_form(built[0]))
    fresh = SavedLora(folder).attach(load_pretrained(config.model, 3, "fp32", 5), 3, config, 5)
    load_adapter(folder, fresh)
    with torch.no_grad():
        expected = built[0](batch)
        torch.testing.assert_close(fresh(batch), expected, rtol=1e-4, atol=2e-5)
        assert (expected - plain).abs().max() > 1e-2
