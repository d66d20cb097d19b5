"""Sums sent once: the head they give is the one solved on all data, and the prior ratio is the hand-computed one."""

from typing import Any

import numpy as np
import pytest
import torch

import fibecfed
from fibecfed import Config, load_config
from fibecfed.config import build_config, merge, to_dict
from fibecfed.methods.stages.statistics import fold_of
from fibecfed.runtime import Experiment, assemble
from fibecfed.tasks import log_prior_ratio
from fibecfed.tasks.classification.closed_form import PENALTIES, RIDGE_SCALE, device_sums, problem, solve_head
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


def folds(experiment: Experiment) -> np.ndarray:
    """(n,) the fold of each example's device."""
    devices = experiment.config.federation.device_count
    return np.array([fold_of(0, int(d), devices) for d in experiment.data.devices.owner()])


def test_the_penalty_is_the_one_with_the_lowest_error_on_folds_of_devices(small: Config) -> None:
    experiment, state = first_stage(changed(small, model={"head_init": "ridge"}))
    features, onehot = everything(experiment)
    fold = folds(experiment)
    assert len(np.unique(fold)) == 5
    errors = []
    for penalty in PENALTIES:
        error = 0.0
        for number in range(5):
            x, y = features[fold != number], onehot[fold != number]
            scale = penalty * (x**2).sum() / x.shape[1]
            centred = x - x.mean(0)
            weight = np.linalg.solve(centred.T @ centred + scale * np.eye(x.shape[1]), centred.T @ (y - y.mean(0)))
            held = (features[fold == number] - x.mean(0)) @ weight + y.mean(0)
            error += ((held - onehot[fold == number]) ** 2).sum()
        errors.append(error)
    best = PENALTIES[int(np.argmin(errors))]
    fixed, at_best = first_stage(changed(small, model={"head_init": "ridge", "ridge_penalty": best}))
    assert torch.equal(state.tensors["head.weight"], at_best.tensors["head.weight"])
    assert f"penalty {best:.3g}, chosen by" in state.info["head_reason"]
    assert f"{min(errors) / len(features):.3f}" in state.info["head_reason"]
    assert "as set" in at_best.info["head_reason"]
    assert fixed.config.model.ridge_penalty == best


def test_one_device_cannot_choose_a_penalty_and_says_so(small: Config) -> None:
    alone = changed(small, federation={"devices": 1, "sampled": 1}, data={"partition": {"kind": "iid"}})
    _, state = first_stage(changed(alone, model={"head_init": "ridge"}))
    assert "penalty 1, not chosen" in state.info["head_reason"]
    _, state = first_stage(changed(alone, model={"head_init": "class_means"}))
    assert "no class is in two folds" in state.info["head_reason"]


def test_more_features_than_examples_are_said(small: Config) -> None:
    few = changed(small, data={"train_examples": 12}, model={"head_init": "ridge"})
    assert "17 features outnumber the 12 examples" in first_stage(few)[1].info["head_reason"]


def test_the_class_means_head_scores_by_distance_to_the_means(small: Config) -> None:
    """Distances in units of the variance that folds of devices show along the directions between the means."""
    experiment, state = first_stage(changed(small, model={"head_init": "class_means"}))
    features, onehot = everything(experiment)
    fold, counts = folds(experiment), onehot.sum(0)
    means = (onehot.T @ features) / counts[:, None]
    apart, share = means - features.mean(0), counts / counts.sum()
    spread = (share * (apart**2).sum(1)).sum()
    deviations, freedom = 0.0, 0
    for c in range(3):
        present = [n for n in range(5) if ((fold == n) & (onehot[:, c] == 1)).any()]
        freedom += len(present) - 1
        for number in present:
            mine = features[(fold == number) & (onehot[:, c] == 1)]
            deviations += len(mine) * (share * (apart @ (mine.mean(0) - means[c])) ** 2).sum()
    variance = deviations / freedom / spread
    within = ((features - onehot @ means) ** 2).sum() / len(features)
    scale = max(0.0, 1 - within * 2 / len(features) / spread) / variance
    smoothed = (counts + 1) / (counts + 1).sum()
    weight = state.tensors["head.weight"].double().numpy()
    bias = state.tensors["head.bias"].double().numpy()
    expected = scale * (features @ means.T - (means**2).sum(1) / 2) + np.log(smoothed)
    assert scale > 0
    np.testing.assert_allclose(features @ weight.T + bias, expected, rtol=1e-3, atol=1e-3)


def test_the_scale_of_class_means_is_that_of_the_classes_own_spread() -> None:
    """Classes at +-1 on one axis with standard deviation 1/2 there and much more beside it: kappa is 1 / 0.25."""
    generator = torch.Generator().manual_seed(0)
    parts = []
    for _ in range(40):
        labels = torch.arange(400) % 2
        vectors = torch.randn(400, 20, generator=generator) * 2
        vectors[:, 0] = torch.randn(400, generator=generator) / 2 + 2 * labels - 1
        parts.append(device_sums(labels, vectors, {"label_counts": (2,), "class_sums": (20, 2), "square_norm": (1,)}))
    config = load_config(model={"head_init": "class_means"})
    head, _ = solve_head(config, parts, {"head.weight": torch.zeros(2, 20)})
    between = head["head.weight"][1] - head["head.weight"][0]  # kappa (mu_1 - mu_0)
    assert float(between[0]) == pytest.approx(2 / 0.25, rel=0.3)


def test_features_too_small_for_their_squares_are_no_contradiction() -> None:
    vectors = torch.tensor([[1e-25, 2.0], [4e-25, -1.0], [2e-25, 0.5]])
    shapes = {"label_counts": (2,), "triangle": (6,), "moment": (3, 2)}
    sums = device_sums(torch.tensor([0, 1, 1]), vectors, shapes)
    assert sums["triangle"][0] == 0 and sums["triangle"][1] != 0  # float32 has no 1e-49
    assert problem(sums, 3) is None


def test_statistics_are_counted_and_sent_once(small: Config) -> None:
    result = fibecfed.run(changed(small, model={"head_init": "ridge"}))
    assert result.summary["examples_scored"] == result.summary["data"]["train_examples"]
    stages = result.summary["stages"]
    assert set(stages) == {"statistics", "train"}
    width, classes = 16, 3
    sums = 4 * ((width + 1) * (width + 2) // 2 + (width + 1) * classes) + 8 * classes
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
