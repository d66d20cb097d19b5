"""Bottleneck adapters: nothing at zero, Houlsby's step by hand, padding, files, and refusals."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

import tiny
from fibecfed import InputError
from fibecfed.models import blocks
from fibecfed.tuning import load_adapter, save_adapter
from fibecfed.tuning.bottleneck import Adapted

ALL = range(len(tiny.TEXTS))


def build(kind: str, head: str = "pooled", **settings: object) -> tiny.Built:
    return tiny.build(kind, head, tuning="adapter", adapter={"width": 3}, **settings)


@pytest.mark.parametrize(("kind", "head"), tiny.EVERY_MODEL)
def test_near_zero_at_the_start_and_nothing_at_zero(kind: str, head: str) -> None:
    built = build(kind, head)
    plain = tiny.build(kind, head)  # LoRA begins as nothing
    if head == "pooled":
        built.model.head.load_state_dict(plain.model.head.state_dict())
    start = built.logits()
    assert 0 < (start - plain.logits()).abs().max() < 5e-2
    with torch.no_grad():
        for p in built.layout:
            if p.role == "adapter_up":
                built.model.get_parameter(p.name).zero_()
    torch.testing.assert_close(built.logits(), plain.logits(), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("kind", "head"), tiny.EVERY_MODEL)
def test_logits_alone_equal_logits_in_a_padded_batch(kind: str, head: str) -> None:
    built = build(kind, head)
    before = built.logits()
    built.randomize()
    together = built.logits()
    torch.testing.assert_close(together, torch.cat([built.logits(i) for i in ALL]), atol=1e-5, rtol=0)
    assert (together - before).abs().max() > 1e-3


@pytest.mark.parametrize("kind", tiny.EVERY_KIND)
def test_two_adapters_and_the_norms_of_every_layer(kind: str) -> None:
    built, d, m = build(kind), 16, 3
    stack = list(blocks(built.model.backbone, built.pretrained.config))
    assert [sum(isinstance(x, Adapted) for x in block.modules()) for block in stack] == [2, 2]
    by_role: dict[str, int] = {}
    for p in built.layout:
        by_role[p.role] = by_role.get(p.role, 0) + p.size
        assert (p.layer is None) == (p.role == "head")
    assert by_role.pop("head") == 3 * d + 3
    assert by_role.pop("adapter_down") == 2 * 2 * (m * d + m)
    assert by_role.pop("adapter_up") == 2 * 2 * (m * d + d)
    norms = {"llama": 2 * 2 * d, "qwen2": 2 * 2 * d, "qwen3": 2 * 2 * d, "mistral": 2 * 2 * d, "modernbert": 3 * d}
    assert by_role == {"norm": norms.get(kind, 2 * 2 * 2 * d)}


def test_a_layer_by_hand() -> None:
    """BERT: LN(x + A(W x + b)) after the attention and after the feed-forward, A(h) = h + W2 gelu(W1 h + b1) + b2."""
    built = build("bert")
    built.randomize()
    block = blocks(built.model.backbone, built.pretrained.config)[0]
    t = {name: p.detach() for name, p in block.named_parameters()}
    seen: list[torch.Tensor] = []
    for module in (block.attention.self, block):
        module.register_forward_hook(lambda m, i, o: seen.append(o[0] if isinstance(o, tuple) else o))
    block.register_forward_pre_hook(lambda m, i: seen.append(i[0]))
    built.logits(1)
    x, attended, out = seen

    def sublayer(name: str, inputs: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        h = inputs @ t[f"{name}.dense.layer.weight"].T + t[f"{name}.dense.layer.bias"]
        inner = functional.gelu(h @ t[f"{name}.dense.adapter_down.weight"].T + t[f"{name}.dense.adapter_down.bias"])
        h = h + inner @ t[f"{name}.dense.adapter_up.weight"].T + t[f"{name}.dense.adapter_up.bias"]
        scale, shift = t[f"{name}.LayerNorm.weight"], t[f"{name}.LayerNorm.bias"]
        return functional.layer_norm(skip + h, (16,), scale, shift, 1e-12)

    x = sublayer("attention.output", attended, x)
    wide = functional.gelu(x @ t["intermediate.dense.weight"].T + t["intermediate.dense.bias"])
    torch.testing.assert_close(sublayer("output", wide, x), out, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("kind", "head"), [("bert", "pooled"), ("bert", "native"), ("llama", "pooled")])
def test_saved_and_loaded(kind: str, head: str, tmp_path: Path) -> None:
    built, fresh = build(kind, head), build(kind, head, seed=9)
    built.randomize()
    save_adapter(tmp_path, built.model, built.pretrained.tokenizer, {})
    assert not (tmp_path / "adapter_config.json").exists()
    assert (tmp_path / "head.safetensors").is_file() == (head == "pooled")
    load_adapter(tmp_path, fresh.model)
    assert torch.equal(fresh.logits(), built.logits())


@pytest.mark.parametrize(("damage", "said"), [("drop", "missing keys"), ("add", "unexpected keys"), ("widen", "shape")])
def test_a_key_that_does_not_fit_is_named(damage: str, said: str, tmp_path: Path) -> None:
    built = build("bert")
    save_adapter(tmp_path, built.model, built.pretrained.tokenizer, {})
    tensors = load_file(tmp_path / "tuning.safetensors")
    name = next(n for n in sorted(tensors) if n.endswith("adapter_up.weight"))
    if damage == "drop":
        del tensors[name]
    elif damage == "add":
        tensors[f"{name}_too_many"] = tensors[name].clone()
    else:
        tensors[name] = torch.zeros(2, 2)
    save_file(tensors, tmp_path / "tuning.safetensors")
    with pytest.raises(InputError, match=said) as caught:
        load_adapter(tmp_path, built.model)
    assert name in str(caught.value)


def test_half_precision_backbone() -> None:
    for kind in ("bert", "llama"):
        built = build(kind, runtime={"precision": "bf16"})
        built.task.losses(built.model, built.batch()).sum().backward()
        for p in built.layout:
            tensor = built.model.get_parameter(p.name)
            assert tensor.dtype == tensor.grad.dtype == torch.float32
        single = build(kind)
        torch.testing.assert_close(built.logits(), single.logits(), atol=5e-2, rtol=0)


def test_an_unknown_architecture_is_refused() -> None:
    from transformers import XLNetConfig, XLNetModel  # no stack of layers of a known form

    from fibecfed.tuning.bottleneck import _outputs

    model = XLNetModel(XLNetConfig(vocab_size=20, d_model=16, n_layer=1, n_head=2, d_inner=32))
    with pytest.raises(InputError, match="'xlnet'"):
        _outputs(model.layer[0], "xlnet")
