"""What every kind of tuning must do, whatever it trains: used by the tests of its methods."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fibecfed
from crash import Crash, CrashAt
from fibecfed import Config
from fibecfed.config import build_config, merge, to_dict
from fibecfed.data import training_batches
from fibecfed.runtime import assemble
from run_content import content

WIDTH = 3
TEXTS = ["the parcel never arrived and I want my money back", "thank you", "how do I change it?"]


def changed(config: Config, **values: Any) -> Config:
    return build_config(merge(to_dict(config), values))


def check_run(config: Config, path: Path, cut: bool = True) -> None:
    """Judged again from its files; predicts as the model it ended with; ``cut``: resumed bit for bit.

    tests/runs/test_resume.py cuts every method with its defaults.
    """
    config = changed(config, training={"keep_optimizer": True})
    result = fibecfed.run(config, path / "whole")
    if cut:
        with pytest.raises(Crash):
            fibecfed.run(config, path / "cut", callbacks=[CrashAt(2)])
        fibecfed.resume(path / "cut")
        assert content(path / "cut") == content(path / "whole")
    again = fibecfed.evaluate_run(path / "whole")
    assert again["global"]["accuracy"] == result.metrics[-1]["accuracy_global"]
    assert again["personalized"]["accuracy"] == result.metrics[-1]["accuracy_personalized"]
    experiment = assemble(config)
    classifier = fibecfed.load(path / "whole")
    for name, tensor in result.state.tensors.items():
        saved = classifier.model.get_parameter(name)
        if not experiment.method.keeps_device_state:
            assert torch.equal(saved, tensor), name
    logits = classifier.logits(TEXTS)
    alone = np.concatenate([classifier.logits([text]) for text in TEXTS])
    np.testing.assert_allclose(alone, logits, atol=1e-5, rtol=0)
    assert np.abs(logits[0] - logits[1]).max() > 1e-6


def check_modes(config: Config) -> None:
    """Micro-batches and recomputed activations change no more than the last bits; a solved head can be had."""
    plain = fibecfed.run(config).state.tensors
    for values in ({"micro_batch_size": 3}, {"gradient_checkpointing": True}):
        other = fibecfed.run(changed(config, training=values)).state.tensors
        for name, tensor in plain.items():
            torch.testing.assert_close(other[name], tensor, atol=2e-4, rtol=2e-3)
    solved = fibecfed.run(changed(config, model={"head_init": "ridge"}))
    assert "statistics" in solved.summary["stages"]


def plain_steps(config: Config) -> None:
    """One round of two devices against a plain loop of AdamW over the model, averaged by hand."""
    experiment = assemble(config)
    model, data, start = experiment.model, experiment.data, experiment.start.tensors
    expected: dict[str, torch.Tensor] = {n: torch.zeros_like(t, dtype=torch.float64) for n, t in start.items()}
    for device in (0, 1):
        parameters = {n: p for n, p in model.named_parameters() if n in start}
        for name, parameter in parameters.items():
            parameter.data.copy_(start[name])
            parameter.requires_grad_(True)
        optimizer = torch.optim.AdamW(parameters.values(), lr=config.training.learning_rate, weight_decay=0.0)
        mine = data.devices.indices(device)
        for chosen in training_batches(
            mine, data.train.lengths[mine], config.training.batch_size, seed=config.seed, round=1, device=device,
            epochs=1,
        ):  # fmt: skip
            batch = data.train.batch(chosen)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(batch), batch.targets).backward()
            torch.nn.utils.clip_grad_norm_(list(parameters.values()), 1.0)
            optimizer.step()
        for name, parameter in parameters.items():
            expected[name] += parameter.detach().double() * len(mine) / data.devices.sizes.sum()
    state = fibecfed.run(config).state
    for name, tensor in expected.items():
        torch.testing.assert_close(state.tensors[name], tensor.float(), rtol=1e-5, atol=1e-7, msg=name)
        assert not torch.equal(state.tensors[name], start[name]), name
