"""`--dry-run` of a language model whose folder has no weights: the bytes of the real one, and memory by count."""

import re
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from typer.testing import CliRunner

import fibecfed
from fibecfed import InputError, load_config
from fibecfed.cli.app import app
from fibecfed.config import Config, build_config, merge, to_dict, to_yaml
from fibecfed.models import activation_bytes, is_weightless, load_pretrained
from fibecfed.runs.estimate import estimate
from fibecfed.runtime import assemble
from fibecfed.tasks import Batch
from fibecfed.tuning import TUNINGS
from tasks.instructions import build, folder, records, settings, write


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return settings(write(tmp_path / "asked.jsonl", records(40)))


def without(config: Config, folder: Path) -> Config:
    """The same with a model folder that has no weights."""
    shutil.copytree(config.model.name, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    return build_config(merge(to_dict(config), {"model": {"name": str(folder)}}))


def shown(config: Config, path: Path) -> str:
    path.write_text(to_yaml(config, ""))
    done = CliRunner().invoke(app, ["run", str(path), "--dry-run"], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize("method", ["fedavg-lora", "fibecfed"])
def test_the_same_bytes_as_with_weights(method: str, config: Config, tmp_path: Path) -> None:
    config = build_config(merge(to_dict(config), {"method": method}))
    whole, shapes = shown(config, tmp_path / "a.yaml"), shown(without(config, tmp_path / "model"), tmp_path / "b.yaml")
    rows = [
        [line for line in output.splitlines() if "│" in line and "memory" not in line] for output in (whole, shapes)
    ]
    parameters = [[line.split() for line in part if "parameters" in line] for part in rows]
    assert parameters[0] == parameters[1] and len(parameters[0]) == 2
    traffic = [[line.split() for line in part if re.search(r"round|whole run|once", line)] for part in rows]
    assert traffic[0] == traffic[1] and len(traffic[0]) > 3
    assert "estimated time" in whole and "estimated" not in shapes
    assert "has a config.json and no weights" in shapes


def test_a_folder_in_the_folder_of_models_is_found(config: Config, tmp_path: Path) -> None:
    alone = without(config, tmp_path / "models" / "shapes")
    beside = {"model": {"name": "shapes", "dir": str(tmp_path / "models")}}
    output = shown(build_config(merge(to_dict(alone), beside)), tmp_path / "a.yaml")
    assert "'shapes' has a config.json and no weights" in output


def test_memory_is_counted_from_shapes(config: Config, tmp_path: Path) -> None:
    config = build_config(merge(to_dict(without(config, tmp_path / "model")), {"method": "fedavg-lora"}))
    experiment = assemble(config, weights=False)
    assert is_weightless(experiment.model)
    found = estimate(experiment).counted
    assert found is not None
    plain = build("llama").pretrained.backbone
    frozen = [p for n, p in plain.named_parameters() if "lora_" not in n]
    assert found.weights == 4 * sum(p.numel() for p in frozen)
    assert found.trained == 16 * sum(p.size for p in experiment.layout)  # value, gradient and two moments in fp32
    assert (found.examples, found.tokens) == (4, experiment.data.train.lengths.max())
    saving = build_config(merge(to_dict(config), {"training": {"gradient_checkpointing": True}}))
    less = estimate(assemble(saving, weights=False)).counted
    assert less is not None and less.activations < found.activations
    assert less.activations > 2 * 4 * found.examples * found.tokens * 16  # two layers keep their inputs, at least


@pytest.mark.parametrize(
    ("kind", "tuning"), [("llama", "lora"), ("gpt2", "lora"), ("llama", "prompt"), ("gpt2", "prefix")]
)
def test_activations_are_those_that_autograd_keeps(kind: str, tuning: str) -> None:
    model: Any = build(kind).model
    if tuning != "lora":
        config = load_config(model={"name": str(folder(kind))})
        model = TUNINGS[tuning].attach(load_pretrained(config.model, 0, generates=True), 0, config, 0)
    ids = torch.zeros(3, 20, dtype=torch.int64)
    mask = torch.ones_like(ids)
    mask[0, 15:] = 0  # padded, as batches are
    own = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()]}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        result = model.hidden(Batch(ids, mask, ids))
    expected = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    assert result.requires_grad and expected > 0
    assert activation_bytes(model, 3, 20, nullcontext) == expected


def test_a_run_needs_the_weights(config: Config, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no safetensors file"):
        fibecfed.run(without(config, tmp_path / "model"))
