"""`export --merge`: one folder of plain transformers with the logits of the run, where fibecfed cannot be imported."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import fibecfed
import forking
from fibecfed import Config, InputError
from fibecfed.cli.app import app
from fibecfed.config import build_config, merge, to_dict
from fibecfed.tasks.causal_lm import Turn
from tasks.instructions import records, settings, write

TEXTS = ["the parcel never arrived and I want my money back", "thank you", "how do I change it?"]
BARRED = (
    "import sys\nfor name in ('fibecfed', 'peft', *sys.modules):\n"
    "    if name.partition('.')[0] in ('fibecfed', 'peft'):\n        sys.modules[name] = None\n"
)


def by_card(folder: Path, texts: list[str] | None = None) -> np.ndarray:
    """The logits of the folder's own lines, in a process that has neither fibecfed nor peft."""
    code = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    code = code.replace("max_new_tokens=100", "max_new_tokens=5")  # these models have 64 places
    code = code if texts is None else code.replace('["a text"]', repr(texts))
    script = BARRED + code + "\nimport json as j\nprint('LOGITS', j.dumps(logits.tolist()))\n"
    done = forking.run(["-c", script], cwd=folder, timeout=120)
    assert done.returncode == 0, done.stderr
    return np.array(json.loads(done.stdout.rsplit("LOGITS", 1)[1]), dtype=np.float32)


def changed(config: Config, **values: object) -> Config:
    return build_config(merge(to_dict(config), values))


@pytest.mark.parametrize(
    ("kind", "head", "method"),
    [
        ("bert", "pooled", "fedavg-lora"),
        ("bert", "native", "fedavg-lora"),
        ("llama", "native", "fedavg-lora"),
        pytest.param("bert", "pooled", "adalora", marks=pytest.mark.long),
        pytest.param("bert", "pooled", "slora", marks=pytest.mark.long),
    ],
)
def test_a_classifier(
    small: Config, tmp_path: Path, request: pytest.FixtureRequest, kind: str, head: str, method: str
) -> None:
    model = {"name": str(request.getfixturevalue(kind)), "head": head}
    fibecfed.run(changed(small, model=model, method=method), tmp_path / "run")
    folder = fibecfed.export_merged(tmp_path / "run", tmp_path / "merged")
    expected = fibecfed.load(tmp_path / "run").logits(TEXTS)
    np.testing.assert_allclose(by_card(folder, TEXTS), expected, atol=1e-5, rtol=0)
    assert not list(folder.glob("adapter_*"))
    if head == "native":
        assert list(json.loads((folder / "config.json").read_text())["id2label"].values()) == [
            "billing",
            "delivery",
            "praise",
        ]


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_language_model_and_a_sites_own(kind: str, tmp_path: Path) -> None:
    file = write(tmp_path / "asked.jsonl", records(24))
    config = settings(file, kind, method="local-only", federation={"rounds": 1, "sampled": 4})
    fibecfed.run(config, tmp_path / "run")
    run, out = str(tmp_path / "run"), tmp_path / "merged"
    done = CliRunner().invoke(app, ["export", run, "--merge", "--device", "1", "--out", str(out)])
    assert done.exit_code == 0, done.output
    model = fibecfed.load_language_model(run, 1)
    ids = model.prompt_ids([Turn("user", "a prompt")])
    with torch.no_grad():
        own = model.model.backbone(input_ids=ids).logits.numpy()
        base = fibecfed.load_language_model(run).model.backbone(input_ids=ids).logits.numpy()
    found = by_card(out)
    np.testing.assert_allclose(found, own, atol=1e-5, rtol=0)
    assert np.abs(found - base).max() > 1e-3  # of the device, not of the federation
    assert (out / "chat_template.jinja").is_file()


def test_what_cannot_be_merged_is_said(small: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fibecfed.run(changed(small, method="prompt-tuning"), tmp_path / "prompt")
    with pytest.raises(InputError, match="prompts, prefixes and adapters are parts beside the weights"):
        fibecfed.export_merged(tmp_path / "prompt", tmp_path / "merged")
    fibecfed.run(small, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr("transformers.PreTrainedModel.is_quantized", True, raising=False)
        with pytest.raises(InputError, match="The base model is quantized"):
            fibecfed.export_merged(tmp_path / "run", tmp_path / "merged")
    with monkeypatch.context() as patch:  # something of it is left out
        patch.setattr("peft.tuners.lora.layer.Linear.get_delta_weight", lambda self, name: 0 * self.weight)
        with pytest.raises(InputError, match="something in it cannot be merged"):
            fibecfed.export_merged(tmp_path / "run", tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
    fibecfed.export_merged(tmp_path / "run", tmp_path / "merged")
    with pytest.raises(InputError, match="already exists"):
        fibecfed.export_merged(tmp_path / "run", tmp_path / "merged")


@pytest.mark.parametrize(("given", "said"), [([], "Say --merge"), (["--merge"], "--out FOLDER")])
def test_the_command_says_what_is_missing(given: list[str], said: str) -> None:
    done = CliRunner().invoke(app, ["export", "nowhere", *given])
    assert done.exit_code == 2 and said in done.output
