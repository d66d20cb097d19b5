"""The saved adapter, loaded by the lines of the model card where fibecfed cannot be imported, gives the same logits."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import fibecfed
import forking
from fibecfed import Config, InputError
from fibecfed.config import build_config, merge, to_dict

TEXTS = ["the parcel never arrived and I want my money back", "thank you", "how do I change it?"]

BLOCK = """\
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "fibecfed":
            raise ImportError("fibecfed is not here")

sys.meta_path.insert(0, Refuse())
try:
    import fibecfed
except ImportError:
    pass
else:
    raise SystemExit("fibecfed could be imported")
"""


def card_code(directory: Path) -> str:
    return (directory / "README.md").read_text().split("```python\n")[1].split("```")[0]


def logits_by_card(directory: Path, texts: list[str], adapter: str = "adapter") -> np.ndarray:
    """Run the card's own code in the run's directory, for these texts."""
    code = card_code(directory).replace('["a text"]', repr(texts)).replace('"adapter', f'"{adapter}')
    script = BLOCK + code + "\nimport json as j\nprint('LOGITS', j.dumps(logits.tolist()))\n"
    done = forking.run(["-c", script], cwd=directory, timeout=120)
    assert done.returncode == 0, done.stderr
    return np.array(json.loads(done.stdout.rsplit("LOGITS", 1)[1]), dtype=np.float32)


def changed(config: Config, **values: object) -> Config:
    return build_config(merge(to_dict(config), values))


@pytest.mark.parametrize(("kind", "head"), [("bert", "pooled"), ("bert", "native"), ("llama", "pooled")])
def test_plain_peft_gives_the_runs_logits(
    small: Config, tmp_path: Path, request: pytest.FixtureRequest, kind: str, head: str
) -> None:
    folder = request.getfixturevalue(kind)
    fibecfed.run(changed(small, model={"name": str(folder), "head": head}), tmp_path / "run")
    expected = fibecfed.load(tmp_path / "run").logits(TEXTS)
    np.testing.assert_allclose(logits_by_card(tmp_path / "run", TEXTS), expected, atol=1e-5, rtol=0)
    assert np.abs(expected).max() > 1e-3


def test_a_devices_own_adapter_is_plain_peft_too(small: Config, tmp_path: Path) -> None:
    fibecfed.run(changed(small, method="local-only"), tmp_path / "run")
    device = int(min(p.name for p in (tmp_path / "run" / "adapters").iterdir()))
    expected = fibecfed.load(tmp_path / "run", device).logits(TEXTS)
    found = logits_by_card(tmp_path / "run", TEXTS, f"adapters/{device}")
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)
    assert np.abs(expected - fibecfed.load(tmp_path / "run").logits(TEXTS)).max() > 1e-3


@pytest.mark.parametrize("file", ["adapter_model.safetensors", "head.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "unexpected", "shape"])
def test_a_key_that_does_not_fit_is_an_error(small: Config, tmp_path: Path, file: str, damage: str) -> None:
    fibecfed.run(small, tmp_path / "run")
    path = tmp_path / "run" / "adapter" / file
    tensors = load_file(path)
    name = sorted(tensors)[0]
    if damage == "missing":
        del tensors[name]
    elif damage == "unexpected":
        name, tensors["stranger"] = "stranger", np.zeros(1, dtype=np.float32)
    else:
        tensors[name] = np.zeros((1, 1), dtype=np.float32)
    save_file(tensors, path)
    with pytest.raises(InputError, match=name.replace(".", r"\.")):
        fibecfed.load(tmp_path / "run")


def test_other_base_weights_are_refused(small: Config, tmp_path: Path, bert: Path) -> None:
    import shutil

    copy = tmp_path / "model"
    shutil.copytree(bert, copy)
    fibecfed.run(changed(small, model={"name": str(copy)}), tmp_path / "run")
    weights = load_file(copy / "model.safetensors")
    weights[sorted(weights)[0]] += 0.1
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="sha256"):
        fibecfed.load(tmp_path / "run")


def test_evaluating_again_gives_the_last_record(small: Config, tmp_path: Path) -> None:
    for method in ("fedavg-lora", "local-only"):
        result = fibecfed.run(changed(small, method=method), tmp_path / method)
        again = fibecfed.evaluate_run(tmp_path / method)
        assert again["personalized"]["accuracy"] == result.metrics[-1]["accuracy_personalized"]
        assert again["global"]["accuracy"] == result.metrics[-1]["accuracy_global"]


def test_predictions_are_labels_with_probabilities(small: Config, tmp_path: Path) -> None:
    fibecfed.run(small, tmp_path / "run")
    classifier = fibecfed.load(tmp_path / "run")
    for prediction in classifier.predict(TEXTS):
        assert set(prediction.probabilities) == {"billing", "delivery", "praise"}
        assert sum(prediction.probabilities.values()) == pytest.approx(1)
        assert prediction.probabilities[prediction.label] == max(prediction.probabilities.values())
    alone = np.concatenate([classifier.logits([text]) for text in TEXTS])
    np.testing.assert_allclose(alone, classifier.logits(TEXTS), atol=1e-5)
