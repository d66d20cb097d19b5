"""sharing.local_rate: the learning rate of local layers falls with the rounds, or with a device's own times."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from baselines import changed, watched
from fibecfed import Config, InputError
from fibecfed.federation import Device
from fibecfed.runtime import assemble
from fibecfed.training import scheduled_rate

ON: dict[str, Any] = {
    "method": "fibecfed",
    "warm_up": {"rounds": 0},
    "sharing": {"layers": "last", "count": 1, "local_rate": "participation"},
    "federation": {"devices": 4, "sampled": 2, "rounds": 8},
    "training": {"learning_rate": 0.01, "schedule": "linear"},
}


def test_local_layers_train_at_the_rate_of_their_devices_own_times(small: Config) -> None:
    config = changed(small, ON)
    run = watched(config)
    local = {p.name for p in run.experiment.layout if p.layer == 0}
    number = run.of("train")[0][0].address.device
    mine = [q for q, _ in run.of("train") if q.address.device == number]
    device = Device(run.experiment.site, number, run.state.device_versions[number])
    assert device.state is not None and int(device.state.memory["times trained"]) == len(mine) > 1
    job = run.job(device, mine[-1])  # one time more
    # 8 rounds, half of the devices in each: 4 times to expect, of which len(mine) are over
    progress = min(1.0, len(mine) / 3)
    assert set(job.rates) == local & job.trained.keys()
    assert list(job.rates.values()) == pytest.approx([0.01 * (1 - 0.9 * progress)] * len(job.rates))
    assert job.learning_rate == scheduled_rate(config.training, mine[-1].address.round, 8)
    before = run.job(Device(run.experiment.site, number, 0), mine[-1])
    assert set(before.rates.values()) == {0.01}  # as a device that never took part


def test_only_the_parameters_named_train_at_another_rate(small: Config) -> None:
    run = watched(changed(small, ON))
    request, _ = run.of("train")[0]
    job = run.job(Device(run.experiment.site, request.address.device, 0), request)
    sgd = assemble(changed(small, ON, training={"optimizer": "sgd", "max_grad_norm": None})).site.executor
    one = replace(job, batches=job.batches[:1], rates={})
    plain = sgd.result(one)
    double = sgd.result(replace(one, rates=dict.fromkeys(job.rates, 2 * job.learning_rate)))
    for name, tensor in plain.tensors.items():
        factor = 2 if name in job.rates else 1
        moved = double.tensors[name] - job.tensors[name]
        torch.testing.assert_close(moved, factor * (tensor - job.tensors[name]), rtol=1e-3, atol=1e-7)


def test_it_needs_layers_that_train_on_their_device(small: Config) -> None:
    with pytest.raises(InputError, match=r"sharing\.local_rate"):
        assemble(changed(small, ON, sharing={"rows": "none"}))


def test_a_rate_that_does_not_fall_refuses_it(small: Config) -> None:
    with pytest.raises(InputError, match=r"training\.schedule=constant"):
        assemble(changed(small, ON, training={"schedule": "constant"}))
