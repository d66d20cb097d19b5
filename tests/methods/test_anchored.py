"""sharing.anchored: in half of the batches the local layers have their shared value, and stay as they are."""

from dataclasses import replace
from typing import Any

import pytest
import torch

import fibecfed
from baselines import changed, watched
from fibecfed import Config, InputError
from fibecfed.federation import Device
from fibecfed.methods.stages.curriculum_train import ANCHOR
from fibecfed.runtime import assemble
from fibecfed.training import TrainJob

ON: dict[str, Any] = {
    "method": "fibecfed",
    "warm_up": {"rounds": 1},
    "sharing": {"count": 1, "anchored": True},
    "federation": {"rounds": 4},
}


def test_an_anchored_step_trains_the_rest_with_the_shared_value_and_nothing_else(small: Config) -> None:
    experiment = assemble(changed(small, method="fedavg-lora"))
    layout, executor = experiment.layout, experiment.site.executor
    start = dict(experiment.start.tensors)
    local = [p.name for p in layout if p.layer == 1]
    shared = [n for n in layout.names if n not in local]
    own = {n: start[n] + 0.1 for n in local}
    batches = experiment.data.devices.indices(0)[:8].reshape(2, 4)
    job = TrainJob(0, 1, {**start, **own}, dict.fromkeys(layout.names), batches, 0.01, 0)
    anchored = executor.result(replace(job, anchor={n: start[n] for n in local}, anchored=frozenset({0, 1})))
    without = executor.result(replace(job, tensors=start, trained=dict.fromkeys(shared)))
    assert all(torch.equal(anchored.tensors[n], own[n]) for n in local)
    assert all(torch.equal(anchored.tensors[n], without.tensors[n]) for n in shared)
    assert anchored.operations == without.operations
    half = executor.result(replace(job, anchor={n: start[n] for n in local}, anchored=frozenset({0})))
    assert any(not torch.equal(half.tensors[n], own[n]) for n in local)
    assert anchored.operations < half.operations < executor.result(job).operations


def test_half_of_a_devices_batches_are_anchored_at_the_warm_ups_values(small: Config) -> None:
    run = watched(changed(small, ON))
    state = run.state
    (layer,) = set(range(run.experiment.layout.layers)) - set(state.info["layers"])
    local = [p.name for p in run.experiment.layout if p.layer == layer]
    checked = 0
    for number, version in state.device_versions.items():
        device = Device(run.experiment.site, number, version)
        assert device.state is not None
        kept = {n.removeprefix(ANCHOR): t for n, t in device.state.memory.items() if n.startswith(ANCHOR)}
        if not kept:
            continue  # it was asked for layer scores only
        assert kept.keys() == set(local)
        assert all(torch.equal(kept[n], state.tensors[n]) for n in local)  # the server's, which is the warm-up's
        assert any(not torch.equal(device.state.local[n], kept[n]) for n in local)
        request, _ = [(q, r) for q, r in run.of("train") if q.address.device == number][-1]
        job = run.job(device, request)
        assert abs(len(job.anchored) - len(job.batches) / 2) <= 0.5
        assert job.anchor.keys() == job.trained.keys() & set(local)
        checked += 1
    assert checked > 1


def test_anchoring_changes_the_run_and_nothing_that_is_sent(small: Config) -> None:
    on, off = fibecfed.run(changed(small, ON)), fibecfed.run(changed(small, ON, sharing={"anchored": False}))
    assert any(not torch.equal(on.state.tensors[n], t) for n, t in off.state.tensors.items())
    assert on.summary["examples_trained"] == off.summary["examples_trained"]


@pytest.mark.parametrize(
    "other", [{"sharing": {"layers": "all"}}, {"sharing": {"rows": "none"}}, {"curriculum": {"refresh": True}}]
)
def test_what_cannot_be_anchored_is_refused(small: Config, other: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"sharing\.anchored"):
        assemble(changed(small, ON, other))
