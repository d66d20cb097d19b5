"""Adapter folders: what is saved comes back whole, here and in plain PEFT; what does not fit is named."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification

import tiny
from fibecfed import InputError
from fibecfed.models import pool
from fibecfed.tuning import load_adapter, put_tensors, read_description, save_adapter, trainable_tensors

HEADS = ("pooled", "native")


DESCRIPTION = {"labels": list(tiny.LABELS), "max_length": 32, "base_model": "tiny", "base_sha256": "0"}


def saved(built: tiny.Built, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    save_adapter(folder, built.model, built.pretrained.tokenizer, DESCRIPTION)
    return folder


@pytest.mark.parametrize(("kind", "head"), tiny.EVERY_MODEL)
@pytest.mark.filterwarnings("error")
def test_round_trip(kind: str, head: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    built = tiny.build(kind, head)
    built.randomize()
    folder = saved(built, tmp_path / "adapter")
    assert (folder / "head.safetensors").is_file() == (head == "pooled")
    fresh = tiny.build(kind, head, seed=9)  # another random head, pooler included
    assert not torch.equal(fresh.logits(), built.logits())
    load_adapter(folder, fresh.model)
    assert torch.equal(fresh.logits(), built.logits())
    assert fresh.layout == built.layout
    assert {name for name, p in fresh.model.named_parameters() if p.requires_grad} == set(built.layout.names)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("kind", "head"), tiny.EVERY_MODEL)
@pytest.mark.filterwarnings("error", "ignore:.is_gradient_checkpointing:FutureWarning")
def test_the_adapter_means_the_same_in_plain_peft(kind: str, head: str, tmp_path: Path) -> None:
    built = tiny.build(kind, head)
    built.randomize()
    folder = saved(built, tmp_path / "adapter")
    batch = built.batch()
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    torch.manual_seed(123)
    if head == "native":
        base = AutoModelForSequenceClassification.from_pretrained(tiny.folder(kind), num_labels=3)
        base.config.pad_token_id = built.pretrained.tokenizer.pad_token_id
        with torch.no_grad():
            logits = PeftModel.from_pretrained(base, folder).eval()(**inputs).logits
    else:
        base = AutoModel.from_pretrained(tiny.folder(kind))
        weights = load_file(folder / "head.safetensors")
        with torch.no_grad():
            hidden = PeftModel.from_pretrained(base, folder).eval()(**inputs).last_hidden_state
            pooled = pool(hidden, batch.attention_mask, "last" if built.pretrained.decoder else "mean")
            logits = pooled @ weights["weight"].T + weights["bias"]
    torch.testing.assert_close(logits, built.logits(), atol=1e-5, rtol=1e-5)


def test_a_pooler_that_the_checkpoint_lacks_is_saved_with_a_native_head(tmp_path: Path) -> None:
    path = tiny.folder("bert", auto=AutoModelForMaskedLM)
    built, fresh = (tiny.build("bert", "native", path=path, seed=seed) for seed in (0, 1))
    load_adapter(saved(built, tmp_path / "adapter"), fresh.model)
    assert torch.equal(fresh.logits(), built.logits())


@pytest.mark.parametrize("head", HEADS)
def test_the_same_model_gives_the_same_files(head: str, tmp_path: Path) -> None:
    first, second = (
        saved(tiny.build("bert", head, lora={"targets": "all-linear"}), tmp_path / name) for name in ("one", "two")
    )
    files = sorted(path.name for path in first.iterdir())
    assert files == sorted(path.name for path in second.iterdir())
    for name in files:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    settings = json.loads((first / "adapter_config.json").read_text())
    assert settings["target_modules"] == ["dense", "key", "query", "value"]  # sorted: PEFT keeps them as a set
    assert settings["inference_mode"] is True
    assert settings["base_model_name_or_path"] == str(tiny.folder("bert").resolve())


def test_fused_maps_stored_transposed_are_declared(tmp_path: Path) -> None:
    for kind, transposed in (("gpt2", True), ("llama", False)):
        folder = saved(tiny.build(kind), tmp_path / kind)
        assert json.loads((folder / "adapter_config.json").read_text())["fan_in_fan_out"] is transposed


def test_saving_leaves_the_model_ready_to_train(tmp_path: Path) -> None:
    built = tiny.build("bert")
    saved(built, tmp_path / "adapter")
    assert built.model.backbone.peft_config["default"].inference_mode is False
    assert isinstance(built.model.backbone.peft_config["default"].target_modules, set)
    built.task.losses(built.model, built.batch()).sum().backward()
    assert all(p.grad is not None for name, p in built.model.named_parameters() if name in built.layout.names)


Damage = Callable[[dict[str, Tensor], str], None]


def drop(tensors: dict[str, Tensor], name: str) -> None:
    del tensors[name]


def add(tensors: dict[str, Tensor], name: str) -> None:
    tensors[f"{name}_too_many"] = tensors[name].clone()


def widen(tensors: dict[str, Tensor], name: str) -> None:
    tensors[name] = torch.cat([tensors[name], tensors[name]]).contiguous()


CASES = [
    ("pooled", "adapter_model.safetensors", "query.lora_B.weight"),
    ("pooled", "head.safetensors", "bias"),
    ("native", "adapter_model.safetensors", "value.lora_A.weight"),
    ("native", "adapter_model.safetensors", "classifier.weight"),
]


@pytest.mark.parametrize(("damage", "said"), [(drop, "missing keys ['{}']"), (add, "unexpected keys ['{}_too_many']"),
                                              (widen, "'{}' has shape")])  # fmt: skip
@pytest.mark.parametrize(("head", "file", "ending"), CASES)
def test_a_key_that_does_not_fit_is_named_and_nothing_is_loaded(
    head: str, file: str, ending: str, damage: Damage, said: str, tmp_path: Path
) -> None:
    built = tiny.build("bert", head)
    built.randomize()
    folder = saved(built, tmp_path / "adapter")
    tensors = load_file(folder / file)
    name = next(key for key in sorted(tensors) if key.endswith(ending))
    damage(tensors, name)
    save_file(tensors, folder / file)
    fresh = tiny.build("bert", head)
    before = trainable_tensors(fresh.model)
    with pytest.raises(InputError) as caught:
        load_adapter(folder, fresh.model)
    assert str(caught.value).startswith(f"'{folder / file}' does not fit this model: ")
    assert said.format(name) in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in trainable_tensors(fresh.model).items())


def test_an_adapter_of_another_rank_is_refused(tmp_path: Path) -> None:
    folder = saved(tiny.build("bert"), tmp_path / "adapter")
    with pytest.raises(InputError, match=r"has shape \(2, 16\), expected \(4, 16\)"):
        load_adapter(folder, tiny.build("bert", lora={"rank": 4}).model)


@pytest.mark.parametrize("file", ["adapter_model.safetensors", "head.safetensors"])
def test_a_missing_or_broken_file_is_named(file: str, tmp_path: Path) -> None:
    built = tiny.build("bert")
    folder = saved(built, tmp_path / "adapter")
    (folder / file).write_bytes(b"no tensors")
    with pytest.raises(InputError, match=rf"{file}' is not a valid safetensors file"):
        load_adapter(folder, built.model)
    (folder / file).unlink()
    with pytest.raises(InputError, match=file):
        load_adapter(folder, built.model)


def test_description(tmp_path: Path) -> None:
    folder = saved(tiny.build("bert"), tmp_path / "adapter")
    assert read_description(folder) == DESCRIPTION
    (folder / "task.json").write_text("{")
    with pytest.raises(InputError, match=r"task\.json' cannot be read"):
        read_description(folder)
    (folder / "task.json").unlink()
    with pytest.raises(InputError, match=r"task\.json' cannot be read"):
        read_description(folder)


def test_tensors_out_and_in() -> None:
    one, other = tiny.build("bert"), tiny.build("bert", seed=5)
    one.randomize()
    taken = trainable_tensors(one.model)
    assert list(taken) == list(one.layout.names)
    put_tensors(other.model, taken)
    assert torch.equal(one.logits(), other.logits())
    kept = {name: value.clone() for name, value in taken.items()}
    one.randomize(std=1.0)
    assert all(torch.equal(value, kept[name]) for name, value in taken.items())  # copies, not views
    with pytest.raises(KeyError):
        put_tensors(other.model, {"no such parameter": torch.zeros(1)})
