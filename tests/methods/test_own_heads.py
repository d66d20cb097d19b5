"""A device's own model: its label proportions for every method, and heads that it fits or trains for itself."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fibecfed
from baselines import ONE_DEVICE, changed, same_run, watched
from crash import Crash, CrashAt
from fibecfed import Config, InputError
from fibecfed.federation import Device, MemoryStore
from fibecfed.methods.stages.second_head import kept_head
from fibecfed.runtime import assemble
from fibecfed.tasks import HEAD_BIAS, HEAD_WEIGHT, log_prior_ratio
from run_content import content

SKEWED: dict[str, Any] = {"data": {"partition": {"alpha": 0.3}}, "federation": {"rounds": 2}}
CORRECTED: dict[str, Any] = {"training": {"loss": "prior_corrected"}}
FEW = 6  # devices of the small configuration


@pytest.mark.parametrize("method", ["fedavg-lora", "fibecfed"])
def test_own_models_know_their_proportions_and_the_global_one_does_not(small: Config, method: str) -> None:
    run = watched(changed(small, SKEWED, CORRECTED, method=method, warm_up={"rounds": 0}))
    experiment, state = run.experiment, run.state
    everyone = np.bincount(experiment.data.train.targets, minlength=3)
    assert list(experiment.method.personal_devices(state)) == list(range(FEW))
    assert len(state.device_versions) < FEW  # some were never sampled, and have it too
    for number in range(FEW):
        device = experiment.device(number, state)
        own, before = experiment.method.personal(device, state), experiment.method.kept(device, state)
        moved = own.pop(HEAD_BIAS) - before.pop(HEAD_BIAS)
        torch.testing.assert_close(moved, log_prior_ratio(device.group_counts, everyone))
        assert all(torch.equal(tensor, before[name]) for name, tensor in own.items())


def test_a_device_that_is_like_all_has_the_global_model(small: Config) -> None:
    run = watched(changed(small, ONE_DEVICE, CORRECTED, method="fedavg-lora"))
    own = run.experiment.method.personal(run.experiment.device(0, run.state), run.state)
    assert all(torch.equal(tensor, run.state.tensors[name]) for name, tensor in own.items())
    assert run.result.summary["accuracy"]["global"] == run.result.summary["accuracy"]["personalized"]


@pytest.mark.parametrize("method", ["fedavg-plus", "fedrod", "head-only"])
def test_each_is_saved_used_evaluated_and_gone_on_with(small: Config, tmp_path: Path, method: str) -> None:
    config = changed(small, SKEWED, method=method)
    whole = fibecfed.run(config, tmp_path / "whole")
    if method != "head-only":
        with pytest.raises(Crash):
            fibecfed.run(config, tmp_path / "cut", callbacks=[CrashAt(2)])
        again = fibecfed.resume(tmp_path / "cut")
        same_run(whole, again)
        for name in ("own_models.safetensors", "README.md"):
            assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    before = content(tmp_path / "whole")
    fibecfed.resume(tmp_path / "whole")
    assert content(tmp_path / "whole") == before
    numbers = fibecfed.evaluate_run(tmp_path / "whole")
    for protocol in ("global", "personalized"):
        assert numbers[protocol]["accuracy"] == whole.metrics[-1][f"accuracy_{protocol}"]
    experiment = assemble(config, fibecfed.results.RunDirectory.open(tmp_path / "whole").states())
    experiment.method.look_ahead(experiment.site, whole.state)  # the batches of the run, so the same bits
    for number in range(FEW):
        own = experiment.method.personal(experiment.device(number, whole.state), whole.state)
        loaded = fibecfed.load(tmp_path / "whole", number).model
        assert all(torch.equal(loaded.get_parameter(name), tensor) for name, tensor in own.items())
    assert "label proportions" in (tmp_path / "whole" / "README.md").read_text()


def test_fitting_costs_a_pass_once_and_no_byte(small: Config, tmp_path: Path) -> None:
    config = changed(small, SKEWED, method="fedavg-plus")
    plain = fibecfed.run(changed(config, personal={"head": "none"}))
    fitted = fibecfed.run(config, tmp_path / "run")
    assert all(torch.equal(fitted.state.tensors[n], t) for n, t in plain.state.tensors.items())
    for key in ("bytes_up", "bytes_down", "examples_trained", "accuracy_global"):
        assert fitted.metrics[-1][key] == plain.metrics[-1][key]
    examples = sum(assemble(config).data.devices.sizes)
    assert fitted.summary["examples_scored"] - plain.summary["examples_scored"] == examples
    spent = fitted.summary["stages"]["delivered"]
    assert fitted.summary["operations"] - plain.summary["operations"] == pytest.approx(spent["operations"])
    assert spent["operations"] > 0
    decided = json.loads((tmp_path / "run" / "method.json").read_text())["own_head_strength"]
    assert set(decided) == set(map(str, range(FEW)))
    assert sum(fitted.summary["own_heads"].values()) == FEW


def test_a_fit_is_given_the_own_features_and_proportions(small: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = assemble(changed(small, SKEWED, method="head-only"))
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(
        type(experiment.site.data.task),
        "fit_own_head",
        staticmethod(
            lambda *given: (seen.extend(given), fibecfed.tasks.FittedHead(given[2] * 2, given[3] + 1, 0.1))[1]
        ),
    )
    state = experiment.method.midway(experiment.start)
    device = Device(experiment.site, 3, 0)
    own = experiment.method.personal(device, state)
    vectors, targets, weight, _, offset, _ = seen
    assert vectors.shape == (device.examples, weight.shape[1])
    assert torch.equal(targets, torch.from_numpy(experiment.data.train.targets[device.indices]))
    assert offset is not None  # the proportions that a fit starts with
    assert torch.equal(own[HEAD_WEIGHT], state.tensors[HEAD_WEIGHT] * 2)
    assert torch.equal(own[HEAD_BIAS], state.tensors[HEAD_BIAS] + 1)


def test_the_second_head_learns_beside_a_model_that_does_not_notice(small: Config) -> None:
    one = fibecfed.run(changed(small, SKEWED, CORRECTED, method="fedavg-lora"))
    run = watched(changed(small, SKEWED, method="fedrod"))
    assert all(torch.equal(run.state.tensors[n], t) for n, t in one.state.tensors.items())
    assert run.result.metrics[-1]["bytes_up"] == one.metrics[-1]["bytes_up"]
    assert set(run.state.device_versions) == {request.address.device for request, _ in run.of("train")}
    for number in run.state.device_versions:
        head = kept_head(run.experiment.device(number, run.state).state)
        assert head[HEAD_WEIGHT].abs().sum() > 0


def test_the_second_head_takes_the_step_of_plain_cross_entropy(small: Config) -> None:
    sgd = {"training": {"optimizer": "sgd", "max_grad_norm": None, "learning_rate": 0.5, "local_steps": 1}}
    config = changed(small, SKEWED, sgd, method="fedrod", federation={"rounds": 1})
    store = MemoryStore()
    experiment = assemble(config, store)
    for _ in experiment.server.run(experiment.start):
        pass
    number = next(n for n in range(FEW) if n in store._states)
    device = Device(experiment.site, number, 1)
    everyone = np.bincount(experiment.data.train.targets, minlength=3)
    offset = log_prior_ratio(device.group_counts, everyone)
    (batch,) = fibecfed.data.training_batches(
        device.indices, experiment.data.train.lengths[device.indices], config.training.batch_size,
        seed=config.seed, round=1, device=number, epochs=1, steps=1,
    )  # fmt: skip
    fibecfed.tuning.put_tensors(experiment.model, experiment.start.tensors)
    inputs = experiment.data.train.batch(batch)
    with torch.no_grad():
        h = experiment.model.features(inputs)  # type: ignore[operator]
        wrong = torch.softmax(experiment.model(inputs) + offset, dim=1)
        wrong -= torch.nn.functional.one_hot(inputs.targets, 3)
    head = kept_head(device.state)
    torch.testing.assert_close(head[HEAD_WEIGHT], -0.5 * wrong.T @ h / len(batch), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(head[HEAD_BIAS], offset - 0.5 * wrong.mean(dim=0), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("head", ["fitted", "trained"])
@pytest.mark.parametrize("method", ["fibecfed", "fedalt", "fedavg+finetune"])
def test_methods_with_local_parameters_take_them_too(small: Config, tmp_path: Path, method: str, head: str) -> None:
    run = fibecfed.run(changed(small, SKEWED, CORRECTED, method=method, personal={"head": head}), tmp_path / "run")
    config = fibecfed.load_config(tmp_path / "run" / "config.yaml")
    experiment = assemble(config, fibecfed.results.RunDirectory.open(tmp_path / "run").states())
    experiment.method.look_ahead(experiment.site, run.state)
    for number in range(FEW):
        own = experiment.method.personal(experiment.device(number, run.state), run.state)
        loaded = fibecfed.load(tmp_path / "run", number).model
        assert all(torch.equal(loaded.get_parameter(name), tensor) for name, tensor in own.items())


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"method": "fedavg-lora", "model": {"head": "native"}, **CORRECTED}, "needs model.head=pooled"),
        ({"method": "fedrod", "model": {"head": "native"}}, "needs model.head=pooled"),
        ({"method": "local-only", "personal": {"head": "fitted"}}, "set it to none"),
        ({"method": "ridge-head", "personal": {"head": "trained"}}, "trains nothing"),
        ({"method": "head-only", "model": {"head_init": "random"}}, "class_means or ridge"),
    ],
)
def test_what_cannot_be_is_refused(small: Config, values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        assemble(changed(small, values))


def test_keys_of_a_method_can_be_overridden(small: Config) -> None:
    settings = assemble(changed(small, method="fedavg-plus", training={"loss": "cross_entropy"})).config
    assert (settings.training.loss, settings.model.head_init, settings.personal.head) == (
        "cross_entropy", "class_means", "fitted",
    )  # fmt: skip


def test_settings_of_an_earlier_version_are_read() -> None:
    config = fibecfed.load_config(personal={"layers": 2, "head": True})
    assert (config.fedalt.layers, config.fedalt.head, config.personal.head) == (2, True, None)
