"""FedAvg against a plain PyTorch loop written out here, and against centralized training."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

import fibecfed
from fibecfed import Config
from fibecfed.callbacks import Callback
from fibecfed.config import build_config, merge, to_dict
from fibecfed.data import training_batches
from fibecfed.federation import StageDone
from fibecfed.runtime import Experiment, assemble


def changed(config: Config, **values: object) -> Config:
    return build_config(merge(to_dict(config), values))


def plain_training(
    experiment: Experiment, start: Mapping[str, Tensor], positions: list[np.ndarray], learning_rate: float
) -> dict[str, Tensor]:
    """AdamW on the mean loss with the gradient clipped to 1, nothing of the package but the model and its batches."""
    model, data = experiment.model, experiment.data
    parameters = {n: p for n, p in model.named_parameters() if n in start}
    for name, parameter in parameters.items():
        parameter.data.copy_(start[name])
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(parameters.values(), lr=learning_rate, weight_decay=0.0)
    for chosen in positions:
        batch = data.train.batch(chosen)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(batch), batch.targets).backward()
        torch.nn.utils.clip_grad_norm_(list(parameters.values()), 1.0)
        optimizer.step()
    return {name: p.detach().clone() for name, p in parameters.items()}


def device_batches(experiment: Experiment, device: int, round: int) -> list[np.ndarray]:
    config, data = experiment.config, experiment.data
    mine = data.devices.indices(device)
    return training_batches(
        mine,
        data.train.lengths[mine],
        config.training.batch_size,
        seed=config.seed,
        round=round,
        device=device,
        epochs=config.training.local_epochs,
    )


def test_two_devices_two_rounds_against_a_plain_loop(small: Config) -> None:
    config = changed(
        small, federation={"devices": 2, "sampled": 2}, data={"partition": {"kind": "quantity", "alpha": 2.0}}
    )
    experiment = assemble(config)
    sizes = experiment.data.devices.sizes
    assert sizes[0] != sizes[1]  # else the weights are not tested
    expected = dict(experiment.start.tensors)
    for number in (1, 2):
        trained = [
            plain_training(experiment, expected, device_batches(experiment, device, number), 0.01) for device in (0, 1)
        ]
        expected = {
            name: ((sizes[0] * trained[0][name].double() + sizes[1] * trained[1][name].double()) / sizes.sum()).float()
            for name in expected
        }
    state = fibecfed.run(config).state
    for name, tensor in expected.items():
        torch.testing.assert_close(state.tensors[name], tensor, rtol=1e-6, atol=1e-7, msg=name)


def test_one_device_with_all_data_and_one_step_is_centralized_training(small: Config) -> None:
    one = changed(
        small,
        federation={"devices": 1, "sampled": 1, "rounds": 3},
        training={"local_steps": 1, "batch_size": 16},
        data={"partition": {"kind": "iid"}},
    )
    federated = fibecfed.run(one)
    centralized = fibecfed.run(changed(one, method="centralized-lora"))
    assert federated.summary["examples_trained"] == 3 * 16
    for name, tensor in federated.state.tensors.items():
        assert torch.equal(tensor, centralized.state.tensors[name]), name
    experiment = assemble(one)
    tensors = dict(experiment.start.tensors)
    for number in (1, 2, 3):
        tensors = plain_training(experiment, tensors, device_batches(experiment, 0, number)[:1], 0.01)
    for name, tensor in tensors.items():
        torch.testing.assert_close(federated.state.tensors[name], tensor, rtol=1e-6, atol=1e-7, msg=name)


@pytest.mark.parametrize("method", ["fedavg-lora", "centralized-lora"])
def test_without_device_state_personalized_equals_global_exactly(small: Config, method: str) -> None:
    for record in fibecfed.run(changed(small, method=method)).metrics:
        assert record["accuracy_global"] == record["accuracy_personalized"]
        assert record["loss_global"] == record["loss_personalized"]


def test_lora_b_moves_in_the_first_round(small: Config) -> None:
    state = fibecfed.run(changed(small, federation={"rounds": 1})).state
    moved = [name for name, tensor in state.tensors.items() if ".lora_B." in name and tensor.abs().max() > 0]
    assert len(moved) == sum(".lora_B." in name for name in state.tensors) > 0


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(small: Config) -> None:
    first, second, other = (fibecfed.run(changed(small, seed=seed)) for seed in (0, 0, 1))
    assert all(torch.equal(first.state.tensors[n], t) for n, t in second.state.tensors.items())
    assert not all(torch.equal(first.state.tensors[n], t) for n, t in other.state.tensors.items())
    for a, b in zip(first.metrics, second.metrics, strict=True):
        assert {k: v for k, v in a.items() if k != "cpu_seconds"} == {k: v for k, v in b.items() if k != "cpu_seconds"}


def test_bytes_are_the_sizes_that_crossed(small: Config) -> None:
    result = fibecfed.run(small)
    entries = sum(t.numel() for t in result.state.tensors.values())
    messages = small.federation.sampled * small.federation.rounds
    for direction in ("up", "down"):
        sent = result.summary["bytes"][direction]
        assert 4 * entries * messages < sent < 4 * entries * messages + 4000 * messages


class Cohorts(Callback):
    """Remembers who took part."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []

    def stage_done(self, done: StageDone, record: object) -> bool:
        self.seen.append(done.cohort)
        return False


def test_local_only_sends_nothing_and_trains_every_device_every_round(small: Config) -> None:
    alone = Cohorts()
    result = fibecfed.run(changed(small, method="local-only"), callbacks=[alone])
    assert small.federation.sampled < small.federation.devices
    assert alone.seen == [tuple(range(small.federation.devices))] * small.federation.rounds
    start = assemble(small).start.tensors
    assert all(torch.equal(result.state.tensors[n], t) for n, t in start.items())  # the server learned nothing
    assert result.summary["bytes"]["up"] < 4000 * small.federation.devices * small.federation.rounds


def test_a_callback_can_stop_a_run(small: Config) -> None:
    class Stop(Callback):
        def stage_done(self, done: StageDone, record: object) -> bool:
            return done.state.round == 2

    result = fibecfed.run(changed(small, federation={"rounds": 9}), callbacks=[Stop()])
    assert result.summary["rounds"] == 2
