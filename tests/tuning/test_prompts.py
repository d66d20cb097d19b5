"""Prompts and prefixes: against embeddings put in by hand and plain PEFT; padding; files; limits; refusals."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional
from transformers import AutoModel

import tiny
from fibecfed import InputError
from fibecfed.models import blocks, pool
from fibecfed.tuning import load_adapter, save_adapter

PROMPTS = ("prompt", "late-prompt", "instance-prompt", "attentive-prompt")
ALL = range(len(tiny.TEXTS))
LENGTH = 5
NO_PREFIX = ("deberta", "modernbert", "distilbert")


def build(kind: str, tuning: str, **settings: Any) -> tiny.Built:
    sections: dict[str, Any] = {
        "prompt": {"prompt": {"length": LENGTH}},
        "late-prompt": {"prompt": {"length": LENGTH}, "lpt": {"width": 4}},
        "instance-prompt": {"prompt": {"length": LENGTH}, "idpg": {"width": 4}},
        "attentive-prompt": {"prompt": {"length": LENGTH}, "attempt": {"width": 4, "drawn": 3}},
        "prefix": {"prefix": {"length": LENGTH}},
    }
    return tiny.build(kind, tuning=tuning, **{**sections[tuning], **settings})


@pytest.mark.parametrize("tuning", [*PROMPTS, "prefix"])
@pytest.mark.parametrize("kind", tiny.EVERY_KIND)
@pytest.mark.parametrize("pairs", [False, True], ids=["one text", "two texts"])
def test_logits_alone_equal_logits_in_a_padded_batch(kind: str, tuning: str, pairs: bool) -> None:
    if tuning == "prefix" and kind in NO_PREFIX:
        with pytest.raises(InputError, match="takes no keys and values"):
            build(kind, tuning)
        return
    built = build(kind, tuning, pairs=pairs)
    assert built.data.lengths.min() < built.data.lengths.max() - 8
    before = built.logits()
    torch.testing.assert_close(before, torch.cat([built.logits(i) for i in ALL]), atol=1e-5, rtol=0)
    built.randomize(std=0.5)
    together = built.logits()
    torch.testing.assert_close(together, torch.cat([built.logits(i) for i in ALL]), atol=1e-5, rtol=0)
    built.randomize(["head"], std=0.5)
    kept = built.logits()
    moved = [p for p in built.layout if p.role != "head"]
    with torch.no_grad():
        for p in moved:
            built.model.get_parameter(p.name).mul_(-1.5)
    if (kind, tuning) != ("mistral", "late-prompt"):  # its window of 4 tokens ends before a prompt at the last layer
        assert (built.logits() - kept).abs().max() > 1e-4  # what is tuned reaches the logits


def by_hand(built: tiny.Built, prompt: Tensor, row: int) -> Tensor:
    """Logits of one text, its prompt (P, e) put before its word embeddings, in a fresh plain model."""
    base = AutoModel.from_pretrained(built.pretrained.name).eval()
    ids = built.data.batch(torch.tensor([row]).numpy()).input_ids
    with torch.no_grad():
        words = base.get_input_embeddings()(ids)[0]
        hidden = base(inputs_embeds=torch.cat([prompt, words])[None]).last_hidden_state[:, len(prompt) :]
        pooled = hidden[:, -1] if built.pretrained.decoder else hidden.mean(dim=1)
        return built.model.head(pooled)


@pytest.mark.parametrize("kind", ["bert", "roberta", "llama", "gpt2", "deberta", "modernbert"])
def test_a_soft_prompt_by_hand_and_in_plain_peft(kind: str, tmp_path: Path) -> None:
    built = build(kind, "prompt")
    built.randomize(std=0.5)
    prompt = built.model.get_parameter("backbone.prompt_encoder.default.embedding.weight").detach()
    for row in ALL:
        torch.testing.assert_close(built.logits(row), by_hand(built, prompt, row), atol=1e-5, rtol=0)
    save_adapter(tmp_path, built.model, built.pretrained.tokenizer, {})
    batch = built.batch()
    plain = PeftModel.from_pretrained(AutoModel.from_pretrained(tiny.folder(kind)), tmp_path).eval()
    with torch.no_grad():
        hidden = plain(input_ids=batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
        vectors = pool(hidden[:, LENGTH:], batch.attention_mask, "last" if built.pretrained.decoder else "mean")
        torch.testing.assert_close(built.model.head(vectors), built.logits(), atol=1e-5, rtol=0)


def test_a_prompt_of_words_is_those_words() -> None:
    """BERT: the prompt's embeddings are some words', so the model reads these words."""
    built = build("bert", "prompt")
    words = built.pretrained.backbone.get_input_embeddings().weight
    prompt = built.model.get_parameter("backbone.prompt_encoder.default.embedding.weight").detach()
    found = [int((words - vector).abs().sum(dim=1).argmin()) for vector in prompt]
    assert torch.equal(words[found], prompt)
    assert not set(found) & set(built.pretrained.tokenizer.all_special_ids)
    batch = built.batch(1)
    ids = torch.cat([torch.tensor([found]), batch.input_ids], dim=1)
    with torch.no_grad():
        hidden = AutoModel.from_pretrained(tiny.folder("bert"))(input_ids=ids).last_hidden_state[:, LENGTH:]
        torch.testing.assert_close(built.model.head(hidden.mean(dim=1)), built.logits(1), atol=1e-5, rtol=0)


def test_the_random_start_has_the_words_spread() -> None:
    built = build("bert", "prompt", prompt={"length": 40, "init": "random"})
    prompt = built.model.get_parameter("backbone.prompt_encoder.default.embedding.weight")
    words = built.pretrained.backbone.get_input_embeddings().weight
    assert float(prompt.detach().std()) == pytest.approx(float(words.std()), rel=0.1)


@pytest.mark.parametrize("kind", ["bert", "llama", "gpt2", "qwen2"])
def test_a_prefix_in_plain_peft(kind: str, tmp_path: Path) -> None:
    built = build(kind, "prefix")
    built.randomize(std=0.5)
    save_adapter(tmp_path, built.model, built.pretrained.tokenizer, {})
    plain = PeftModel.from_pretrained(AutoModel.from_pretrained(tiny.folder(kind)), tmp_path).eval()
    batch = built.batch()
    with torch.no_grad():
        hidden = plain(input_ids=batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
        vectors = pool(hidden, batch.attention_mask, "last" if built.pretrained.decoder else "mean")
        torch.testing.assert_close(built.model.head(vectors), built.logits(), atol=1e-5, rtol=0)


def test_a_prefix_by_hand_in_one_layer() -> None:
    """BERT's attention of layer 0 over [prefix keys; text keys]."""
    built = build("bert", "prefix")
    built.randomize(std=0.5)
    own = built.model.get_parameter("backbone.prompt_encoder.default.embedding.weight").detach()  # (P, 2 L d)
    per_layer = own.view(LENGTH, 4, 2, 8)  # P, (k0, v0, k1, v1), heads, d / heads
    attention = blocks(built.model.backbone, built.pretrained.config)[0].attention.self
    seen: dict[str, Tensor] = {}
    attention.register_forward_hook(lambda m, i, k, o: seen.update(x=i[0], out=o[0]), with_kwargs=True)
    built.logits(1)
    x = seen["x"][0]

    def heads(linear: Any) -> Tensor:
        return linear(x).view(-1, 2, 8).transpose(0, 1)  # heads, T, d / heads

    with torch.no_grad():
        keys = torch.cat([per_layer[:, 0].transpose(0, 1), heads(attention.key)], dim=1)
        values = torch.cat([per_layer[:, 1].transpose(0, 1), heads(attention.value)], dim=1)
        weights = torch.softmax(heads(attention.query) @ keys.mT / 8**0.5, dim=-1)
        expected = (weights @ values).transpose(0, 1).reshape(-1, 16)
    torch.testing.assert_close(seen["out"][0], expected, atol=1e-5, rtol=0)


def test_an_instance_prompt_by_hand() -> None:
    for kind in ("bert", "llama"):
        built = build(kind, "instance-prompt")
        built.randomize(std=0.5)
        net = built.model.network
        base = AutoModel.from_pretrained(tiny.folder(kind)).eval()
        for row in ALL:
            with torch.no_grad():
                hidden = base(input_ids=built.batch(row).input_ids).last_hidden_state[0]
                vector = hidden[-1] if built.pretrained.decoder else hidden.mean(dim=0)
                prompt = net.second(torch.relu(net.first(vector))).view(LENGTH, 16)
            torch.testing.assert_close(built.logits(row), by_hand(built, prompt, row), atol=1e-5, rtol=0)


def test_an_attentive_prompt_by_hand() -> None:
    built = build("bert", "attentive-prompt")
    built.randomize(std=0.5)
    mix = built.model.mixture
    base = AutoModel.from_pretrained(tiny.folder("bert")).eval()
    assert mix.sources.shape == (3, LENGTH, 16) and not mix.sources.requires_grad
    for row in ALL:
        with torch.no_grad():
            x = base.get_input_embeddings()(built.batch(row).input_ids)[0].max(dim=0).values
            h = functional.layer_norm(
                mix.up.weight @ functional.silu(mix.down.weight @ x), (16,), mix.norm.weight, mix.norm.bias
            )
            prompts = [*mix.sources, mix.target]
            spreads = [m - m.mean() for m in (p.max(dim=0).values for p in mix.sources)]
            temperature = (sum(float(s @ s) for s in spreads) / len(spreads)) ** 0.5
            scores = torch.stack([p.max(dim=0).values @ h for p in prompts]) / temperature
            chances = scores.exp() / scores.exp().sum()
            prompt = mix.target + sum(a * p for a, p in zip(chances, prompts, strict=True))
        torch.testing.assert_close(built.logits(row), by_hand(built, prompt, row), atol=1e-5, rtol=0)


@pytest.mark.parametrize("layer", [1, 2])
def test_a_late_prompt_by_hand(layer: int) -> None:
    """BERT of three layers: the text alone below, prompt and text from the layer on."""
    built = build("bert", "late-prompt", layers=3, lpt={"width": 4, "layer": layer})
    built.randomize(std=0.5)
    net = built.model.network
    base = AutoModel.from_pretrained(tiny.folder("bert", 3)).eval()
    for row in ALL:
        with torch.no_grad():
            hidden = base.embeddings(built.batch(row).input_ids)
            for block in base.encoder.layer[:layer]:
                hidden = block(hidden)
            prompt = net.second(torch.relu(net.first(hidden.mean(dim=1)))).view(1, LENGTH, 16)
            hidden = torch.cat([prompt, hidden], dim=1)
            for block in base.encoder.layer[layer:]:
                hidden = block(hidden)
            expected = built.model.head(hidden[:, LENGTH:].mean(dim=1))
        torch.testing.assert_close(built.logits(row), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", tiny.EVERY_KIND)
def test_nothing_is_differentiated_below_a_late_prompt(kind: str) -> None:
    built = build(kind, "late-prompt", layers=4)
    assert built.model.layer == 2
    outputs: dict[int, list[bool]] = {}
    for number, block in enumerate(blocks(built.model.backbone, built.pretrained.config)):

        def note(m: Any, i: Any, o: Any, number: int = number) -> None:
            outputs.setdefault(number, []).append((o if isinstance(o, Tensor) else o[0]).requires_grad)

        block.register_forward_hook(note)
    built.task.losses(built.model, built.batch()).sum().backward()
    assert not any(outputs[0] + outputs[1])
    assert outputs[2] == outputs[3] == [True]
    assert all(built.model.get_parameter(p.name).grad.abs().sum() > 0 for p in built.layout)


def test_the_layer_of_a_late_prompt_exists() -> None:
    with pytest.raises(InputError, match=r"lpt\.layer is 2"):
        build("bert", "late-prompt", lpt={"layer": 2})


@pytest.mark.parametrize("tuning", [*PROMPTS, "prefix"])
def test_saved_and_loaded(tuning: str, tmp_path: Path) -> None:
    built, fresh = build("bert", tuning), build("bert", tuning, seed=9)
    built.randomize()
    save_adapter(tmp_path, built.model, built.pretrained.tokenizer, {})
    assert (tmp_path / "adapter_config.json").exists() == (tuning in ("prompt", "prefix"))
    load_adapter(tmp_path, fresh.model)
    assert torch.equal(fresh.logits(), built.logits())
    file = "adapter_model.safetensors" if tuning in ("prompt", "prefix") else "tuning.safetensors"
    tensors = load_file(tmp_path / file)
    name = sorted(tensors)[-1]
    for damaged, said in (
        ({n: t for n, t in tensors.items() if n != name}, "missing keys"),
        ({**tensors, "stranger": torch.zeros(1)}, "unexpected keys"),
        ({**tensors, name: torch.zeros(7, 7)}, "has shape"),
    ):
        save_file(damaged, tmp_path / file)
        with pytest.raises(InputError, match=said):
            load_adapter(tmp_path, fresh.model)


@pytest.mark.parametrize("tuning", [*PROMPTS, "prefix"])
def test_texts_are_cut_by_the_prompts_positions(tuning: str) -> None:
    for kind in ("bert", "gpt2", "roberta", "llama"):
        built = build(kind, tuning)
        assert built.pretrained.tokenizer.model_max_length == tiny.LENGTH - LENGTH
        ids = torch.full((1, tiny.LENGTH - LENGTH), 5)
        longest = replace(built.batch(0), input_ids=ids, attention_mask=torch.ones_like(ids), token_type_ids=None)
        with torch.no_grad():
            assert built.model(longest).isfinite().all()
        length = {"length": tiny.LENGTH - 3}
        with pytest.raises(InputError, match="leaves 3 of the 64 positions"):
            build(kind, tuning, **{"prefix" if tuning == "prefix" else "prompt": length})


@pytest.mark.parametrize("tuning", [*PROMPTS, "prefix"])
def test_what_cannot_be_had_is_refused(tuning: str) -> None:
    with pytest.raises(InputError, match=r"needs model\.head=pooled"):
        tiny.build("bert", "native", tuning=tuning)
    with pytest.raises(InputError, match=r"training\.cache_mb"):
        tiny.build("bert", tuning=tuning, training={"cache_mb": 1})
    if tuning in ("late-prompt", "instance-prompt"):
        with pytest.raises(InputError, match=r"prompt\.init"):
            tiny.build("bert", tuning=tuning, prompt={"init": "random"})


@pytest.mark.parametrize("tuning", [*PROMPTS, "prefix"])
def test_half_precision_backbone(tuning: str) -> None:
    for kind in ("bert", "llama"):
        built, single = build(kind, tuning, runtime={"precision": "bf16"}), build(kind, tuning)
        torch.testing.assert_close(built.logits(), single.logits(), atol=6e-2, rtol=0)
        built.task.losses(built.model, built.batch()).sum().backward()
        for p in built.layout:
            tensor = built.model.get_parameter(p.name)
            assert tensor.dtype == torch.float32 and tensor.grad.abs().sum() > 0


def test_the_token_types_of_a_pair_are_read() -> None:
    built = build("bert", "prompt", pairs=True)
    batch = built.batch(0)
    with torch.no_grad():
        without = built.model(replace(batch, token_type_ids=torch.zeros_like(batch.token_type_ids)))
    assert (without - built.logits(0)).abs().max() > 1e-4
