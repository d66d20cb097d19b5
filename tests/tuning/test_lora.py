"""LoRA on every architecture: what trains, in which layer it is counted, and that it starts as nothing."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer, MambaConfig
from transformers.pytorch_utils import Conv1D

import tiny
from fibecfed import InputError, load_config
from fibecfed.models import load_pretrained
from fibecfed.tuning import LoraTuning, pooling_of

# Where each architecture has its query and value maps, looked up in its own source.
QUERY_AND_VALUE = {
    "bert": {"query", "value"},
    "roberta": {"query", "value"},
    "deberta": {"query_proj", "value_proj"},
    "modernbert": {"Wqkv"},
    "distilbert": {"q_lin", "v_lin"},
    "gpt2": {"c_attn"},
    "llama": {"q_proj", "v_proj"},
    "qwen2": {"q_proj", "v_proj"},
    "qwen3": {"q_proj", "v_proj"},
    "mistral": {"q_proj", "v_proj"},
    "opt": {"q_proj", "v_proj"},
    "gpt_neox": {"query_key_value"},
}


def map_of(name: str) -> str:
    """The last name of the linear map that a LoRA parameter belongs to."""
    return name.split(".lora_")[0].rsplit(".", 1)[-1]


@pytest.mark.parametrize("layers", [2, 3])
@pytest.mark.parametrize(("kind", "head"), tiny.EVERY_MODEL)
@pytest.mark.filterwarnings("error")
def test_every_layer_has_its_pairs_and_only_they_and_the_head_train(kind: str, head: str, layers: int) -> None:
    built = tiny.build(kind, head, layers)
    parameters = dict(built.model.named_parameters())
    assert set(built.layout.names) == {name for name, p in parameters.items() if p.requires_grad}
    assert built.layout.layers == layers
    for layer in range(layers):
        inside = [p for p in built.layout if p.layer == layer]
        for role in ("lora_A", "lora_B"):
            assert {map_of(p.name) for p in inside if p.role == role} == QUERY_AND_VALUE[kind]
            assert len([p for p in inside if p.role == role]) == len(QUERY_AND_VALUE[kind])
    outside = [p for p in built.layout if p.layer is None]
    assert outside and {p.role for p in outside} == {"head"}
    assert all(("modules_to_save" in p.name) == (head == "native") for p in outside)
    assert any(p.shape == (3, 16) for p in outside)
    for p in built.layout:
        value = parameters[p.name]
        assert tuple(value.shape) == p.shape and value.dtype == torch.float32
        assert bool(value.any()) == (p.role != "lora_B") or (p.role == "head" and p.name.endswith("bias"))
        assert p.role == "head" or p.shape[0 if p.role == "lora_A" else 1] == 2  # the rank
    assert not built.model.training


@pytest.mark.parametrize("kind", tiny.EVERY_KIND)
def test_untrained_lora_changes_nothing(kind: str) -> None:
    native = tiny.build(kind, "native")
    torch.manual_seed(0)  # of the head
    plain = AutoModelForSequenceClassification.from_pretrained(tiny.folder(kind), num_labels=3)
    plain.config.pad_token_id = native.pretrained.tokenizer.pad_token_id
    batch = native.batch()
    with torch.no_grad():
        expected = plain.eval()(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    torch.testing.assert_close(native.logits(), expected)


def test_all_that_is_random_comes_from_the_seed() -> None:
    before = torch.get_rng_state()
    one, same, other = (tiny.build("bert", seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    for role in ("lora_A", "head"):
        name = next(p.name for p in one.layout if p.role == role)
        first, second, third = (dict(b.model.named_parameters())[name] for b in (one, same, other))
        assert torch.equal(first, second) and not torch.equal(first, third)


@pytest.mark.parametrize(("kind", "head"), tiny.EVERY_MODEL)
@pytest.mark.filterwarnings("error")
def test_all_linear_means_all_in_the_layers_and_none_outside(kind: str, head: str) -> None:
    """BERT's pooler and RoBERTa's classifier hold maps called ``dense``, as the layers do."""
    built = tiny.build(kind, head, lora={"rank": 2, "targets": "all-linear"})
    backbone = load_pretrained(built.config.model, 3).backbone
    expected = [
        name for name, module in backbone.named_modules() if isinstance(module, nn.Linear | Conv1D) and ".0." in name
    ]
    assert len(expected) >= 4
    for layer in range(2):
        adapted = [p for p in built.layout if p.layer == layer and p.role == "lora_B"]
        assert len(adapted) == len(expected)
    assert {p.role for p in built.layout if p.layer is None} == {"head"}
    built.randomize()
    torch.testing.assert_close(built.logits(), torch.cat([built.logits(i) for i in range(5)]), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (["key"], {"self.key"}),
        ("value", {"self.value"}),
        (["attention.output.dense"], {"output.dense"}),
        (["query", "intermediate.dense"], {"self.query", "intermediate.dense"}),
    ],
)
def test_targets_by_name_or_longer_ending(targets: Any, expected: set[str]) -> None:
    layout = tiny.build("bert", lora={"targets": targets}).layout
    adapted = {p.name.split(".lora_")[0] for p in layout if p.role != "head"}
    assert {".".join(name.split(".")[-2:]) for name in adapted} == expected
    assert len(adapted) == 2 * len(expected)


def test_an_unknown_target_lists_what_there_is() -> None:
    with pytest.raises(InputError) as caught:
        tiny.build("bert", lora={"targets": ["query", "q_proj"]})
    assert str(caught.value) == ("lora.targets names ['q_proj']; the model's linear maps are query, key, value, dense.")
    with pytest.raises(InputError, match="names nothing; the model's linear maps are c_attn, c_proj, c_fc"):
        tiny.build("gpt2", lora={"targets": []})
    with pytest.raises(InputError, match=r"\['ery'\]"):
        tiny.build("bert", lora={"targets": "ery"})


@pytest.fixture(scope="module")
def mamba(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mamba")
    sizes = {"vocab_size": 200, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}
    AutoModel.from_config(MambaConfig(**sizes)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny.folder("bert")).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("targets", "expected"), [("all-linear", {"in_proj", "x_proj", "dt_proj"}), ("auto", {"in_proj"})]
)
def test_a_mamba_carries_lora_where_peft_puts_it(mamba: Path, targets: str, expected: set[str]) -> None:
    built = tiny.build("mamba", path=mamba, lora={"targets": targets})
    adapted = {p.name.split(".lora_")[0].rsplit(".", 1)[-1] for p in built.layout if p.role == "lora_A"}
    assert adapted == expected
    built.randomize()
    torch.testing.assert_close(built.logits(), torch.cat([built.logits(i) for i in range(5)]), atol=1e-4, rtol=0)


def test_a_map_that_cannot_carry_lora_is_named(mamba: Path) -> None:
    with pytest.raises(InputError, match=r"names \['out_proj'\].*in_proj, x_proj, dt_proj \(PEFT puts no LoRA on out_"):
        tiny.build("mamba", path=mamba, lora={"targets": ["out_proj"]})


def test_auto_on_an_architecture_with_other_names_lists_what_there_is() -> None:
    built = load_pretrained(tiny.build("bert").config.model, 3)
    for block in built.backbone.encoder.layer:
        attention = block.attention.self
        attention.ask, attention.tell = attention.query, attention.value
        del attention.query, attention.value
    with pytest.raises(InputError, match=r"auto knows no query and value .* choose from key, ask, tell, dense\."):
        LoraTuning().attach(built, 3, load_config(lora={"targets": "auto"}), 0)


def test_pooling_that_auto_stands_for() -> None:
    assert pooling_of(load_config(), decoder=False) == "mean"
    assert pooling_of(load_config(), decoder=True) == "last"
    assert pooling_of(load_config(model={"pooling": "cls"}), decoder=False) == "cls"
    with pytest.raises(InputError, match=r"model\.pooling=cls reads the first token, .* use last or mean"):
        tiny.build("gpt2", model={"pooling": "cls"})


@pytest.mark.parametrize(("kind", "head"), tiny.EVERY_MODEL)
def test_trained_parameters_stay_fp32_over_a_bf16_backbone(kind: str, head: str) -> None:
    half = tiny.build(kind, head, runtime={"precision": "bf16"})
    full = tiny.build(kind, head)
    for built in (half, full):
        built.randomize()
    names = set(half.layout.names)
    dtypes = {name in names: p.dtype for name, p in half.model.named_parameters() if "original_module" not in name}
    assert dtypes == {True: torch.float32, False: torch.bfloat16}
    logits = half.logits()
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, full.logits())
    assert (logits - full.logits()).abs().max() < 0.1 * full.logits().abs().max()  # bf16 has 8 bits
