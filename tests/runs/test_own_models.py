"""The devices' own models at the end of a run: one in memory at a time, and no adapter where a bias says it all."""

import gc
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import fibecfed
from fibecfed import Config, InputError
from fibecfed.config import build_config, merge, to_dict
from fibecfed.federation import Device
from fibecfed.methods import METHODS
from fibecfed.results import OWN_MODELS_FILE
from fibecfed.runtime import assemble
from fibecfed.tasks.base import HEAD_BIAS
from fibecfed.tuning import put_tensors

TEXTS = ["the parcel never arrived and I want my money back", "thank you"]


def changed(config: Config, **values: Any) -> Config:
    return build_config(merge(to_dict(config), {"federation": {"rounds": 1}, **values}))


@pytest.mark.parametrize("method", ["fedavg+prior", "device-majority"])
def test_a_bias_is_kept_for_each_device_and_no_adapter(small: Config, tmp_path: Path, method: str) -> None:
    config, out = changed(small, method=method), tmp_path / "run"
    state = fibecfed.run(config, out).state
    assert not (out / "adapters").exists()
    assert (out / OWN_MODELS_FILE).stat().st_size < 1000
    assert OWN_MODELS_FILE in (out / "README.md").read_text()
    experiment, servers = assemble(config), fibecfed.load(out)
    answers = []
    for number in range(6):
        model = experiment.method.personal(Device(experiment.site, number, 0), state)
        own = fibecfed.load(out, number)
        assert all(torch.equal(own.model.get_parameter(name), tensor) for name, tensor in model.items())
        answers.append(own.logits(TEXTS))
        put_tensors(servers.model, model)
        np.testing.assert_array_equal(answers[-1], servers.logits(TEXTS))
    assert any(not np.array_equal(answers[0], other) for other in answers[1:])
    with pytest.raises(InputError, match="has no adapter of device 6"):
        fibecfed.load(out, 6)
    rows = load_file(out / OWN_MODELS_FILE)
    for harmed, sentence in (
        ({"devices": rows["devices"], HEAD_BIAS: rows[HEAD_BIAS][:2].clone()}, "does not hold a row for each device"),
        ({"devices": rows["devices"], HEAD_BIAS: rows[HEAD_BIAS][:, :1].clone()}, "does not fit this model"),
    ):
        save_file(harmed, out / OWN_MODELS_FILE)
        with pytest.raises(InputError, match=sentence):
            fibecfed.load(out, 0)


@pytest.mark.parametrize("method", ["fibecfed", "local-only"])
def test_evaluation_and_results_hold_one_personal_model_at_a_time(
    small: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    kind, made, alive = METHODS[method], list[weakref.ref[torch.Tensor]](), list[int]()
    real = kind.personal

    def watched(self: Any, device: Device, state: Any) -> Mapping[str, torch.Tensor]:
        gc.collect()
        alive.append(sum(ref() is not None for ref in made))
        model = {name: tensor.clone() for name, tensor in real(self, device, state).items()}
        made.append(weakref.ref(next(iter(model.values()))))
        return model

    monkeypatch.setattr(kind, "personal", watched)
    config = changed(small, method=method, federation={"rounds": 1, "sampled": 6}, warm_up={"rounds": 0})
    fibecfed.run(config, tmp_path / "run")
    assert len(list((tmp_path / "run" / "adapters").iterdir())) == 6
    assert len(alive) >= 12  # evaluated, then written
    assert max(alive) <= 1  # the one before it, until it is replaced
