"""Loading models: what is frozen, what identifies the weights, and what is refused with which sentence."""

import json
import re
import shutil
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

import tiny
from fibecfed import InputError
from fibecfed.commands import extra_install
from fibecfed.config import ModelConfig
from fibecfed.data import Rows, tokenize
from fibecfed.models import load_pretrained, resolve, words_without_embedding

HEADS = ("pooled", "native")


def model_config(name: object, **settings: Any) -> ModelConfig:
    return ModelConfig(name=str(name), **settings)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A BERT folder that a test may damage."""
    return Path(shutil.copytree(tiny.folder("bert"), tmp_path / "model"))


def edit_json(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content | changes), encoding="utf-8")


@pytest.mark.parametrize(("kind", "head"), tiny.EVERY_MODEL)
@pytest.mark.filterwarnings("error")
def test_loaded_frozen_and_silently(kind: str, head: str, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tiny.folder(kind)
    capfd.readouterr()
    loaded = load_pretrained(model_config(folder, head=head), outputs=3)
    assert not loaded.backbone.training
    assert not any(p.requires_grad for p in loaded.backbone.parameters())
    assert {p.dtype for p in loaded.backbone.parameters()} == {torch.float32}
    assert loaded.decoder == (kind in tiny.DECODERS)
    assert loaded.name == str(folder.resolve())
    assert loaded.tokenizer.pad_token_id == loaded.config.pad_token_id
    assert loaded.tokenizer.padding_side == "right"
    assert loaded.config.use_cache is False
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("kind", ["bert", "modernbert", "gpt2", "qwen2"])
def test_digest_is_the_checkpoints_at_every_precision_and_head_seed(kind: str, head: str) -> None:
    config = model_config(tiny.folder(kind), head=head)
    digests = {load_pretrained(config, 3, precision, seed).sha256 for precision, seed in [("fp32", 0), ("bf16", 1)]}
    assert len(digests) == 1


def test_digest_tells_weights_apart(copied: Path) -> None:
    before = load_pretrained(model_config(copied), 3).sha256
    weights = load_file(copied / "model.safetensors")
    weights["encoder.layer.1.output.dense.weight"][3, 5] += 0.25
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    assert load_pretrained(model_config(copied), 3).sha256 != before


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_a_pooler_that_the_checkpoint_lacks_is_no_part_of_the_digest(kind: str, head: str) -> None:
    """Masked language models are saved without one; transformers then draws it at random."""
    config = model_config(tiny.folder(kind, auto=AutoModelForMaskedLM), head=head)
    one, same, other = (load_pretrained(config, 3, head_seed=seed) for seed in (0, 0, 1))
    assert one.sha256 == other.sha256
    drawn = [dict(loaded.backbone.state_dict()) for loaded in (one, same, other)]
    assert all(torch.equal(value, drawn[1][name]) for name, value in drawn[0].items())
    changed = {name.split(".")[-3 if "pooler" in name else 0] for name, value in drawn[0].items()
               if not torch.equal(value, drawn[2][name])}  # fmt: skip
    expected = {("bert", "native"): {"pooler", "classifier"}, ("roberta", "native"): {"classifier"}}
    assert changed == expected.get((kind, head), {"pooler"})
    wanted = {"bert": ("classifier", "bert.pooler"), "roberta": ("classifier",)}
    assert one.head_modules == (wanted[kind] if head == "native" else ())


@pytest.mark.parametrize(
    ("kind", "modules"),
    [
        ("bert", ("classifier",)),
        ("roberta", ("classifier",)),
        ("deberta", ("classifier", "pooler")),
        ("modernbert", ("classifier", "head")),
        ("distilbert", ("classifier", "pre_classifier")),
        ("gpt2", ("score",)),
        ("llama", ("score",)),
        ("qwen3", ("score",)),
    ],
)
def test_a_native_head_is_all_that_lies_outside_the_base_model(kind: str, modules: tuple[str, ...]) -> None:
    assert load_pretrained(model_config(tiny.folder(kind), head="native"), 3).head_modules == modules


@pytest.mark.parametrize("labels", [2, 5])
def test_a_finetuned_head_is_kept_if_it_has_the_right_width(labels: int) -> None:
    folder = tiny.folder("distilbert", auto=AutoModelForSequenceClassification)  # two labels
    saved = load_file(folder / "model.safetensors")
    head = load_pretrained(model_config(folder, head="native"), labels, head_seed=7).backbone.classifier
    assert head.weight.shape == (labels, 16)
    assert (labels == 2) == torch.equal(head.weight[:2], saved["classifier.weight"])


def test_bf16_halves_the_backbone() -> None:
    loaded = load_pretrained(model_config(tiny.folder("llama")), 3, "bf16")
    assert {p.dtype for p in loaded.backbone.parameters()} == {torch.bfloat16}


def test_global_random_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    load_pretrained(model_config(tiny.folder("bert"), head="native"), 3)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("kind", "offset"), [("bert", 0), ("roberta", 2), ("distilbert", 0), ("gpt2", 0), ("opt", 0)])
def test_texts_are_cut_to_the_table_of_positions(kind: str, offset: int, tmp_path: Path) -> None:
    """Many tokenizers name no limit; a longer text would then be an index error in the middle of a run."""
    folder = Path(shutil.copytree(tiny.folder(kind), tmp_path / kind))
    edit_json(folder / "tokenizer_config.json", model_max_length=int(1e30))
    assert AutoConfig.from_pretrained(folder).max_position_embeddings == tiny.LENGTH + offset
    built = tiny.build(kind, path=folder, data={"max_length": 1000})
    assert built.pretrained.tokenizer.model_max_length == tiny.LENGTH
    full = torch.full((1, tiny.LENGTH), 5)
    with torch.no_grad():
        built.model.backbone(input_ids=full, attention_mask=torch.ones_like(full))


def refused(config: ModelConfig) -> str:
    with pytest.raises(InputError) as caught:
        load_pretrained(config, 3)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 400
    return message


def test_offline_and_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked for")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    assert refused(model_config("someone/no-such-model")) == (
        "Model 'someone/no-such-model' is neither a folder nor in the local Hugging Face cache, and the network is "
        "off. Set model.name to a folder that holds it, use minilm, or set model.allow_download=true to fetch it."
    )


def test_a_path_that_is_no_folder(tmp_path: Path) -> None:
    message = refused(model_config(tmp_path / "nothing"))
    assert message.startswith(f"Model '{tmp_path / 'nothing'}' is neither a folder nor in the local")


def test_a_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("We couldn't connect to the hub\nand much advice")

    monkeypatch.setattr("fibecfed.models.loading.AutoConfig.from_pretrained", unreachable)
    message = refused(model_config("someone/model", allow_download=True))
    assert message == (
        "Model 'someone/model' could not be loaded from the Hugging Face hub: We couldn't connect to the hub"
    )


def test_a_folder_without_config(tmp_path: Path) -> None:
    assert refused(model_config(tmp_path)) == f"Model folder '{tmp_path}' holds no config.json."


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda f: (f / "model.safetensors").write_bytes(b"no tensors"), "header"),
        (lambda f: (f / "tokenizer.json").write_text("{"), ""),
        (lambda f: (f / "config.json").write_text("{"), "not a valid JSON file"),
        (lambda f: edit_json(f / "config.json", model_type="unheard-of"), "unheard-of"),
    ],
    ids=["broken weights", "broken tokenizer", "broken config", "unknown type"],
)
def test_a_damaged_folder(copied: Path, damage: Any, said: str) -> None:
    damage(copied)
    message = refused(model_config(copied))
    assert message.startswith(f"Model folder '{copied}' cannot be loaded: ")
    assert re.search(said, message)


def test_a_folder_without_weights_that_can_be_read_safely(copied: Path) -> None:
    (copied / "model.safetensors").rename(copied / "pytorch_model.bin")
    assert refused(model_config(copied)).startswith(
        f"Model folder '{copied}' holds no safetensors file; weights in other"
    )


@pytest.mark.parametrize("head", HEADS)
def test_weights_of_fewer_layers_than_the_config_says(copied: Path, head: str) -> None:
    edit_json(copied / "config.json", num_hidden_layers=3)
    message = refused(model_config(copied, head=head))
    assert message.startswith(f"Model '{copied}' lacks weights that a Bert")
    assert "(16, such as '" in message and "encoder.layer.2.attention.output.LayerNorm.bias'" in message


@pytest.mark.parametrize("head", HEADS)
def test_weights_of_another_width_than_the_config_says(copied: Path, head: str) -> None:
    edit_json(copied / "config.json", intermediate_size=24)
    assert "intermediate.dense" in refused(model_config(copied, head=head))


@pytest.mark.parametrize("head", HEADS)
def test_encoder_decoders_are_refused(tmp_path: Path, head: str) -> None:
    message = refused(model_config(tiny.save("t5", tmp_path / "t5"), head=head))
    assert message == "Model type 't5' is an encoder-decoder; use an encoder or a decoder."


def test_code_that_comes_with_a_model_is_never_run(copied: Path) -> None:
    (copied / "own.py").write_text("raise SystemExit('ran')")
    edit_json(copied / "config.json", model_type="own", auto_map={"AutoConfig": "own.OwnConfig"})
    assert "comes with code of its own, which is never run" in refused(model_config(copied))


def test_a_tokenizer_with_neither_pad_nor_end_token(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny.folder("gpt2"), tmp_path / "gpt2"))
    edit_json(folder / "tokenizer_config.json", eos_token=None)
    assert "has neither a pad nor an end token" in refused(model_config(folder))


def test_native_decoder_heads_refuse_a_tokenizer_that_ends_texts_with_the_pad_token(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny.folder("qwen3"), tmp_path / "qwen3"))
    end = {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}
    sequence = [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}]
    edit_json(
        folder / "tokenizer.json",
        post_processor={
            "type": "TemplateProcessing",
            "single": sequence,
            "pair": sequence,
            "special_tokens": {"<|endoftext|>": end},
        },
    )
    message = refused(model_config(folder, head="native"))
    assert "ends every text with its pad token '<|endoftext|>'" in message and "use model.head=pooled" in message
    pooled = load_pretrained(model_config(folder), 3).tokenizer("thank you")["input_ids"]
    assert pooled[-1] == 0


def test_minilm_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fibecfed.models.loading.importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=re.escape(extra_install("minilm"))):
        resolve(model_config("minilm"))


def test_minilm_with_other_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"tampered with")

    class Spec:
        origin = str(tmp_path / "__init__.py")

    monkeypatch.setattr("fibecfed.models.loading.importlib.util.find_spec", lambda name: Spec)
    with pytest.raises(InputError, match=r"are not the expected ones \(sha256\)"):
        resolve(model_config("minilm"))


def with_tokens(folder: Path, target: Path, tokens: list[str], **special: str) -> Path:
    """A model whose tokenizer was given tokens that its embeddings lack."""
    shutil.copytree(folder, target)
    tokenizer = AutoTokenizer.from_pretrained(target)
    tokenizer.add_tokens(tokens)
    tokenizer.add_special_tokens(special)
    tokenizer.save_pretrained(target)
    return target


def test_a_token_without_an_embedding_is_named_where_it_is_read(tmp_path: Path) -> None:
    pretrained = load_pretrained(model_config(with_tokens(tiny.folder("bert"), tmp_path / "m", ["superb"])), 3)
    assert words_without_embedding(pretrained.tokenizer, pretrained.vocabulary) == ["superb"]
    labels = np.zeros(2, dtype=np.int64)
    sound = Rows(["thank you", "great"], None, labels, ("a", "b"))
    assert len(tokenize(sound, pretrained.tokenizer, 32, pretrained.vocabulary)) == 2
    rows = Rows(["thank you", "a superb lid"], None, labels, ("a", "b"))
    with pytest.raises(InputError, match=r"Text 2 \('a superb lid'\) has the token 'superb', .* resize the model"):
        tokenize(rows, pretrained.tokenizer, 32, pretrained.vocabulary)


def test_a_pad_token_without_an_embedding_is_replaced(tmp_path: Path) -> None:
    folder = with_tokens(tiny.folder("gpt2"), tmp_path / "m", [], pad_token="<pad>")
    pretrained = load_pretrained(model_config(folder), 3)
    assert pretrained.tokenizer.pad_token == pretrained.tokenizer.eos_token
    assert words_without_embedding(pretrained.tokenizer, pretrained.vocabulary) == []
