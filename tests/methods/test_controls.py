"""The controls: what each says is what its name promises."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fibecfed
from fibecfed import Config
from fibecfed.callbacks import Callback
from fibecfed.config import build_config, merge, to_dict
from fibecfed.federation import Device
from fibecfed.methods import METHODS
from fibecfed.runtime import Experiment, assemble
from fibecfed.tasks import HEAD_BIAS, log_prior_ratio
from run_content import content

CONTROLS = (
    "device-majority", "ridge-head", "fedavg+prior", "fedavg+local-head", "fedavg+finetune", "random-pace",
    "random-subset", "loss-order",
)  # fmt: skip
OF_OTHER_TESTS = {"local-only", "fedavg-plus", "fedrod", "head-only"}


def changed(config: Config, **values: Any) -> Config:
    skewed = {"data": {"partition": {"alpha": 0.3}}, "federation": {"rounds": 3}}
    return build_config(merge(merge(to_dict(config), skewed), values))


class Watch(Callback):
    def started(self, experiment: Experiment, state: object, records: object) -> None:
        self.experiment = experiment


def watched(config: Config) -> tuple[Experiment, Any]:
    watch = Watch()
    result = fibecfed.run(config, callbacks=[watch])
    return watch.experiment, result


def test_the_registry_knows_the_controls() -> None:
    assert {name for name, method in METHODS.items() if method.is_control} == {*CONTROLS, *OF_OTHER_TESTS}


@pytest.mark.parametrize("method", CONTROLS)
def test_every_control_runs_writes_and_evaluates_again(small: Config, tmp_path: Path, method: str) -> None:
    result = fibecfed.run(changed(small, method=method), tmp_path / "run")
    again = fibecfed.evaluate_run(tmp_path / "run")
    assert again["global"]["accuracy"] == result.metrics[-1]["accuracy_global"]
    assert again["personalized"]["accuracy"] == result.metrics[-1]["accuracy_personalized"]
    before = content(tmp_path / "run")
    fibecfed.resume(tmp_path / "run")
    assert content(tmp_path / "run") == before


def test_the_majority_is_counted(small: Config) -> None:
    experiment, result = watched(changed(small, method="device-majority"))
    data = experiment.data
    held_out = data.held_out.targets
    most = np.bincount(data.train.targets).argmax()
    assert result.summary["accuracy"]["global"] == pytest.approx((held_out == most).mean())
    right = 0
    for device in range(data.devices.devices):
        mine = data.held_out_owners.indices(device)
        right += (held_out[mine] == np.bincount(data.train.targets[data.devices.indices(device)]).argmax()).sum()
    assert result.summary["accuracy"]["personalized"] == pytest.approx(right / len(held_out))
    assert result.summary["rounds"] == 0
    assert result.summary["examples_trained"] == 0


def test_the_ridge_head_needs_one_exchange_and_no_round(small: Config) -> None:
    _, result = watched(changed(small, method="ridge-head"))
    assert set(result.summary["stages"]) == {"statistics"}
    assert result.summary["accuracy"]["global"] == result.summary["accuracy"]["personalized"]


def test_the_prior_is_fedavg_with_a_moved_bias(small: Config) -> None:
    plain = fibecfed.run(changed(small, method="fedavg-lora"))
    experiment, corrected = watched(changed(small, method="fedavg+prior"))
    assert all(torch.equal(corrected.state.tensors[n], t) for n, t in plain.state.tensors.items())
    for before, after in zip(plain.metrics, corrected.metrics, strict=True):
        assert after["accuracy_global"] == before["accuracy_global"]
    method, everyone = experiment.method, np.bincount(experiment.data.train.targets, minlength=3)
    for number in range(6):
        device = Device(experiment.site, number, 0)
        moved = method.personal(device, corrected.state)[HEAD_BIAS] - corrected.state.tensors[HEAD_BIAS]
        torch.testing.assert_close(moved, log_prior_ratio(device.group_counts, everyone))


def test_finetuning_is_fedavg_and_one_more_epoch_everywhere(small: Config) -> None:
    plain = fibecfed.run(changed(small, method="fedavg-lora"))
    experiment, tuned = watched(changed(small, method="fedavg+finetune"))
    assert all(torch.equal(tuned.state.tensors[n], t) for n, t in plain.state.tensors.items())
    assert set(tuned.state.device_versions) == set(range(6))
    assert len(tuned.metrics) == len(plain.metrics)  # the last evaluation is the one after it
    extra = tuned.summary["examples_trained"] - plain.summary["examples_trained"]
    assert extra == len(experiment.data.train)


def test_a_local_head_never_travels(small: Config) -> None:
    experiment, result = watched(changed(small, method="fedavg+local-head"))
    start = experiment.start.tensors
    for p in experiment.layout:
        same = torch.equal(result.state.tensors[p.name], start[p.name])
        assert same == (p.layer is None), p.name


def test_paced_controls_train_as_many_examples_as_fibecfed(small: Config) -> None:
    values: dict[str, Any] = {"federation": {"rounds": 5}, "warm_up": {"rounds": 1}}
    trained = {
        method: fibecfed.run(changed(small, method=method, **values)).summary["examples_trained"]
        for method in ("fibecfed", "random-pace", "random-subset", "loss-order")
    }
    assert len(set(trained.values())) == 1, trained


def test_a_native_head_is_refused_where_a_head_is_solved(small: Config) -> None:
    for method in ("ridge-head", "device-majority", "fedavg+prior"):
        with pytest.raises(fibecfed.InputError, match=r"model\.head=pooled"):
            assemble(changed(small, method=method, model={"head": "native"}))
