"""The loading lines of the model card give the run's logits: each precision, checkpoint and head, without network."""

import json
import os
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification

import fibecfed
import tiny
from fibecfed import Config
from fibecfed.config import build_config, merge, to_dict

TEXTS = ["the parcel never arrived and I want my money back", "thank you", "how do I change it?"]
SECONDS = ["much", "the lid and where is the blue kettle", "service"]


def changed(config: Config, **values: Any) -> Config:
    return build_config(merge(to_dict(config), values))


def logits_by_card(directory: Path, monkeypatch: pytest.MonkeyPatch, seconds: list[str] | None = None) -> np.ndarray:
    """Run the card's lines in the run's directory, with no network."""

    def no_network(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked for")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.chdir(directory)
    code = (directory / "README.md").read_text().split("```python\n")[1].split("```")[0]
    assert "fibecfed" not in code
    code = code.replace('["its second text"]', repr(seconds)).replace('["a text"]', repr(TEXTS))
    found: dict[str, Any] = {}
    exec(code, found)
    return found["logits"].numpy()


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of checkpoints whose weights are stored in bfloat16, by kind."""
    folders = {}
    for kind in ("bert", "llama"):
        folders[kind] = tiny.save(kind, tmp_path_factory.mktemp("half") / kind)
        AutoModel.from_pretrained(folders[kind], dtype=torch.bfloat16).save_pretrained(folders[kind])
    return folders


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("kind", "head", "method"),
    [
        ("bert", "pooled", "fedavg-lora"),
        ("bert", "native", "fedavg-lora"),
        ("llama", "pooled", "fedavg-lora"),
        ("llama", "native", "fedavg-lora"),
        ("bert", "pooled", "prompt-tuning"),
        ("llama", "pooled", "p-tuning-v2"),
    ],
)
def test_a_checkpoint_in_bfloat16(
    small: Config, tmp_path: Path, half: dict[str, Path], monkeypatch: pytest.MonkeyPatch,
    kind: str, head: str, method: str, precision: str,
) -> None:  # fmt: skip
    model = {"name": str(half[kind]), "head": head}
    lora = {} if method == "fedavg-lora" else {"lora": to_dict(Config())["lora"]}
    config = changed(
        small, method=method, model=model, runtime={"precision": precision}, federation={"rounds": 1}, **lora
    )
    fibecfed.run(config, tmp_path / "run")
    expected = fibecfed.load(tmp_path / "run").logits(TEXTS)
    atol = 1e-5 if precision == "fp32" else 2e-2
    np.testing.assert_allclose(logits_by_card(tmp_path / "run", monkeypatch), expected, atol=atol, rtol=0)
    task = json.loads((tmp_path / "run" / "adapter" / "task.json").read_text())
    assert task["base_settings"] == {"dtype": "float32" if precision == "fp32" else "bfloat16"}


def test_a_checkpoint_with_a_head_of_another_width(
    small: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny.folder("distilbert", auto=AutoModelForSequenceClassification)  # two labels, the run has three
    fibecfed.run(changed(small, model={"name": str(folder), "head": "native"}), tmp_path / "run")
    expected = fibecfed.load(tmp_path / "run").logits(TEXTS)
    np.testing.assert_allclose(logits_by_card(tmp_path / "run", monkeypatch), expected, atol=1e-5, rtol=0)


def test_two_texts(small: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = tmp_path / "pairs.jsonl"
    labels = ("no", "yes")
    rows.write_text(
        "".join(json.dumps({"q": f"{tiny.TEXTS[i % 5]} {i}", "a": tiny.PAIRS[i % 4], "label": labels[i % 2]}) + "\n"
                for i in range(60))
    )  # fmt: skip
    config = changed(small, data={"file": str(rows), "text": "q", "text_pair": "a"}, federation={"rounds": 1})
    fibecfed.run(config, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "adapter" / "task.json").read_text())["texts"] == ["q", "a"]
    assert "It reads two texts together, `q` and `a`" in (tmp_path / "run" / "README.md").read_text()
    expected = fibecfed.load(tmp_path / "run").logits(TEXTS, SECONDS)
    found = logits_by_card(tmp_path / "run", monkeypatch, SECONDS)
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)


def test_a_model_that_a_package_brought(
    small: Config, tmp_path: Path, bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub's name is no folder; the package that holds the weights is found by its name."""
    (tmp_path / "site" / "a_package").mkdir(parents=True)
    (tmp_path / "site" / "a_package" / "__init__.py").write_text("")
    os.symlink(bert, tmp_path / "site" / "a_package" / "model")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setattr("fibecfed.models.loading.MINILM_PACKAGE", "a_package")
    import hashlib

    digest = hashlib.sha256((bert / "model.safetensors").read_bytes()).hexdigest()
    monkeypatch.setattr("fibecfed.models.loading.MINILM_SHA256", digest)
    fibecfed.run(changed(small, model={"name": "minilm"}, federation={"rounds": 1}), tmp_path / "run")
    expected = fibecfed.load(tmp_path / "run").logits(TEXTS)
    np.testing.assert_allclose(logits_by_card(tmp_path / "run", monkeypatch), expected, atol=1e-5, rtol=0)


def test_a_relative_model_is_found_from_anywhere(
    small: Config, tmp_path: Path, bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bert.parent)
    fibecfed.run(changed(small, model={"name": bert.name}, federation={"rounds": 1}), tmp_path / "run")
    expected = fibecfed.load(tmp_path / "run").logits(TEXTS)
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(fibecfed.load("run").logits(TEXTS), expected)
