"""personal.fallback: a device takes the shared model where its own is not better on the fifth that it kept out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fibecfed
from baselines import changed, watched
from fibecfed import Config, InputError
from fibecfed.federation import Device
from fibecfed.methods import fallback
from fibecfed.results import RunDirectory
from fibecfed.runtime import assemble
from fibecfed.tasks import HEAD_WEIGHT, FittedHead

ON: dict[str, Any] = {"personal": {"fallback": "held-out"}, "federation": {"devices": 4, "sampled": 2, "rounds": 2}}


def test_a_fifth_of_each_group_is_kept_out_of_enough_examples(small: Config) -> None:
    experiment = assemble(changed(small, ON, method="fedavg-plus", data={"partition": {"alpha": 0.5}}))
    groups, sizes = experiment.data.train.groups, []
    for number in range(4):
        device = Device(experiment.site, number, 0)
        held, out = experiment.data.devices.indices(number), device.kept_out
        assert np.array_equal(np.sort(np.concatenate([device.indices, out])), held)
        assert abs(len(out) - len(held) / 5) < 1 if len(held) >= 20 else not len(out)
        if len(out):
            exact = np.bincount(groups[held], minlength=3) / 5
            assert (np.abs(np.bincount(groups[out], minlength=3) - exact) < 1).all()
            assert np.array_equal(Device(experiment.site, number, 0).kept_out, out)
        sizes.append(len(out))
    assert any(sizes)


@pytest.mark.parametrize("method", ["fedavg-plus", "fibecfed", "fedavg+finetune"])
def test_nothing_else_reads_what_is_kept_out(small: Config, method: str) -> None:
    run = watched(changed(small, ON, method=method, warm_up={"rounds": 1}))
    site = run.experiment.site
    for request, reply in run.of("train"):
        device = Device(site, request.address.device, 0)
        assert len(device.kept_out)
        assert reply.info["examples"] == len(device.indices) < len(site.data.devices.indices(device.number))
        assert not np.isin(np.concatenate(run.job(device, request).batches), device.kept_out).any()


@pytest.mark.parametrize(("said", "better"), [(0, False), (2, True)])
def test_the_own_head_stands_only_where_it_is_better(
    small: Config, monkeypatch: pytest.MonkeyPatch, said: int, better: bool
) -> None:
    experiment = assemble(changed(small, ON, method="fedavg-plus", training={"loss": "cross_entropy"}))
    state, site = experiment.method.midway(experiment.start), experiment.site
    device = Device(site, 1, 0)

    def certain(vectors: Any, targets: Any, weight: Any, bias: Any, offset: Any, rng: Any) -> FittedHead:
        sure = torch.full_like(bias, -9.0).index_fill(0, torch.tensor([said]), 9.0)
        return FittedHead(torch.zeros_like(weight), sure, 0.1)

    site.data.train.targets[device.kept_out] = 2
    monkeypatch.setattr(type(site.data.task), "fit_own_head", staticmethod(certain))
    own = experiment.method.personal(device, state)
    shared = experiment.method.own_head.with_proportions(device, state, state.tensors)
    assert torch.equal(own[HEAD_WEIGHT], torch.zeros_like(own[HEAD_WEIGHT])) is better
    assert all(torch.equal(own[name], tensor) for name, tensor in shared.items()) is not better
    assert (1 in experiment.method.fallen_back(site, state)) is not better


def test_equally_good_is_not_better(small: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = assemble(changed(small, ON, method="fedavg-plus"))
    device, shared = Device(experiment.site, 1, 0), dict(experiment.start.tensors)
    own = {**shared, HEAD_WEIGHT: shared[HEAD_WEIGHT] + 1}
    monkeypatch.setattr(fallback, "_loss", lambda device, model: 0.5)
    assert fallback.stands(device, shared, shared)  # nothing to choose
    assert not fallback.stands(device, own, shared)


@pytest.mark.parametrize("method", ["fedavg-plus", "fedalt"])
def test_who_fell_back_is_the_better_choice_and_is_saved(small: Config, tmp_path: Path, method: str) -> None:
    config = changed(small, ON, method=method, training={"learning_rate": 0.05})
    run = fibecfed.run(config, tmp_path / "run")
    experiment = assemble(config, RunDirectory.open(tmp_path / "run").states())
    site, state, chosen = experiment.site, run.state, []
    experiment.method.look_ahead(site, state)
    for number in experiment.method.personal_devices(state):
        device = experiment.device(number, state)
        kept = experiment.method.kept(device, state)
        own = experiment.method.own_head.in_place(device, state, kept)
        shared = experiment.method.own_head.with_proportions(device, state, state.tensors)
        loss = [site.executor.counts(m, site.data.train, device.kept_out).values["loss"].sum() for m in (own, shared)]
        alike = all(torch.equal(own[name], tensor) for name, tensor in shared.items())  # no fit
        chosen += [] if loss[0] < loss[1] or alike else [number]
        better = own if loss[0] < loss[1] else shared
        loaded = fibecfed.load(tmp_path / "run", number).model
        assert all(torch.equal(loaded.get_parameter(name), tensor) for name, tensor in better.items())
    assert json.loads((tmp_path / "run" / "method.json").read_text())["fallen_back"] == chosen
    assert run.summary["fallen_back"] == len(chosen)
    assert "Devices that have the shared one instead" in (tmp_path / "run" / "README.md").read_text()
    passes = 2 * sum(len(experiment.device(n, state).kept_out) for n in experiment.method.personal_devices(state))
    fits = sum(experiment.device(n, state).examples for n in range(4)) if method == "fedavg-plus" else 0
    assert run.summary["stages"]["delivered"]["examples_scored"] == passes + fits


def test_a_device_with_few_examples_keeps_them_and_its_own_model(small: Config) -> None:
    experiment = assemble(changed(small, ON, method="fedavg-plus", data={"train_examples": 40}))
    assert all(Device(experiment.site, n, 0).examples < 20 for n in range(4))
    assert not experiment.method.fallen_back(experiment.site, experiment.method.midway(experiment.start))


@pytest.mark.parametrize(
    ("method", "sentence"),
    [
        ("fedavg-lora", "nothing of its own"),
        ("fedavg+prior", "nothing of its own"),
        ("local-only", "no shared model"),
        ("device-majority", "no shared model"),
        ("centralized-lora", "no shared model"),
    ],
)
def test_methods_without_two_models_refuse_it(small: Config, method: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        assemble(changed(small, {"personal": {"fallback": "held-out"}}, method=method))
