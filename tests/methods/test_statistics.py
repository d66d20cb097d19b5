"""Sums sent once: the head they give is the one solved on all data, and the prior ratio is the hand-computed one."""

from typing import Any

import numpy as np
import pytest
import torch

import fibecfed
from fibecfed import Config
from fibecfed.config import build_config, merge, to_dict
from fibecfed.runtime import Experiment, assemble
from fibecfed.tasks import log_prior_ratio
from fibecfed.tasks.classification.closed_form import RIDGE_SCALE
from fibecfed.training.local import ShiftedOutputs


def changed(config: Config, **values: Any) -> Config:
    return build_config(merge(to_dict(config), values))


def first_stage(config: Config) -> tuple[Experiment, Any]:
    experiment = assemble(config)
    done = next(experiment.server.run(experiment.start))
    assert done.stage.name == "statistics"
    assert len(done.cohort) == config.federation.devices
    return experiment, done.state


def everything(experiment: Experiment) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, d) and one-hot labels of the whole training set, one example at a time."""
    data = experiment.data
    with torch.no_grad():
        rows = [experiment.model.features(data.train.batch(np.array([i])))[0] for i in range(len(data.train))]
    return torch.stack(rows).double().numpy(), np.eye(data.task.outputs)[data.train.targets]


def test_the_ridge_head_is_the_one_solved_on_all_data(small: Config) -> None:
    config = changed(small, model={"head_init": "ridge", "ridge_penalty": 0.1})
    experiment, state = first_stage(config)
    features, onehot = everything(experiment)
    # minimise ||X w + b - y||^2 + p ||w||^2 by augmenting the centred problem with sqrt(p) rows
    penalty = 0.1 * (features**2).sum() / features.shape[1]
    centred, target = features - features.mean(0), onehot - onehot.mean(0)
    stacked = np.vstack([centred, np.sqrt(penalty) * np.eye(features.shape[1])])
    weight = np.linalg.lstsq(stacked, np.vstack([target, np.zeros((features.shape[1], onehot.shape[1]))]), rcond=None)[
        0
    ]
    bias = onehot.mean(0) - features.mean(0) @ weight
    np.testing.assert_allclose(state.tensors["head.weight"].numpy(), RIDGE_SCALE * weight.T, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(state.tensors["head.bias"].numpy(), RIDGE_SCALE * bias, rtol=1e-3, atol=1e-4)


def test_the_class_means_head_scores_by_distance_to_the_means(small: Config) -> None:
    experiment, state = first_stage(changed(small, model={"head_init": "class_means"}))
    features, onehot = everything(experiment)
    means = (onehot.T @ features) / onehot.sum(0)[:, None]
    within = ((features - onehot @ means) ** 2).sum() / len(features)
    share = (onehot.sum(0) + 1) / (onehot.sum(0) + 1).sum()
    weight = state.tensors["head.weight"].double().numpy()
    bias = state.tensors["head.bias"].double().numpy()
    expected = -((features[:, None] - means) ** 2).sum(-1) / (2 * within) + np.log(share)
    expected += (features**2).sum(1, keepdims=True) / (2 * within)  # the same for every class
    np.testing.assert_allclose(features @ weight.T + bias, expected, rtol=1e-3, atol=1e-3)


def test_statistics_are_counted_and_sent_once(small: Config) -> None:
    result = fibecfed.run(changed(small, model={"head_init": "ridge"}))
    assert result.summary["examples_scored"] == result.summary["data"]["train_examples"]
    stages = result.summary["stages"]
    assert set(stages) == {"statistics", "train"}
    width, classes = 16, 3
    sums = 8 * ((width + 1) ** 2 + (width + 1) * classes + classes)
    devices = small.federation.devices
    assert sums * devices < stages["statistics"]["bytes_up"] < (sums + 1000) * devices
    assert sum(p["bytes_up"] for p in stages.values()) == result.summary["bytes"]["up"]


def test_log_prior_ratio_by_hand() -> None:
    # own (3 + 1, 0 + 1) / 5, everyone (4 + 1, 4 + 1) / 10: log(0.8 / 0.5), log(0.2 / 0.5)
    ratio = log_prior_ratio(np.array([3, 0]), np.array([4, 4]))
    np.testing.assert_allclose(ratio.numpy(), np.log([1.6, 0.4]), rtol=1e-6)


def test_the_prior_is_added_in_training_only(small: Config) -> None:
    experiment = assemble(small)
    batch = experiment.data.train.batch(np.arange(4))
    offset = torch.tensor([1.0, -2.0, 0.5])
    with torch.no_grad():
        moved = ShiftedOutputs(experiment.model, offset)(batch) - experiment.model(batch)
    torch.testing.assert_close(moved, offset.expand(4, 3))
    plain = fibecfed.run(small).state.tensors["head.bias"]
    corrected = fibecfed.run(changed(small, training={"loss": "prior_corrected"})).state.tensors["head.bias"]
    assert not torch.equal(plain, corrected)


def test_one_device_with_everyones_labels_is_not_corrected(small: Config) -> None:
    alone = changed(small, federation={"devices": 1, "sampled": 1}, data={"partition": {"kind": "iid"}})
    plain, corrected = fibecfed.run(alone), fibecfed.run(changed(alone, training={"loss": "prior_corrected"}))
    assert all(torch.equal(corrected.state.tensors[n], t) for n, t in plain.state.tensors.items())


@pytest.mark.parametrize("key", [{"model": {"head_init": "ridge"}}, {"training": {"loss": "prior_corrected"}}])
def test_local_only_refuses_what_needs_an_exchange(small: Config, key: dict[str, Any]) -> None:
    with pytest.raises(fibecfed.InputError, match="exchanges nothing"):
        assemble(changed(small, method="local-only", **key))
