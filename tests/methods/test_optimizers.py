"""momd, moms-adamd and fedprox: steps written out by hand, and what they are with their feature switched off."""

from typing import Any

import pytest
import torch

import fibecfed
from baselines import ONE_DEVICE, Parameters, batches_of, by_hand, changed, same_run, watched
from fibecfed import Config, InputError
from fibecfed.methods import resolve
from fibecfed.runtime import assemble

LEARNING_RATE = 0.05
SGD: dict[str, Any] = {"training": {"optimizer": "sgd", "learning_rate": LEARNING_RATE}}


def test_momd_steps_by_hand(small: Config) -> None:
    config = changed(small, ONE_DEVICE, method="momd", training={"learning_rate": LEARNING_RATE})
    run, experiment = watched(config), assemble(config)
    velocity: dict[str, torch.Tensor] = {}

    def step(parameters: Parameters, gradients: dict[str, torch.Tensor]) -> None:
        for name, gradient in gradients.items():
            velocity[name] = 0.9 * velocity.get(name, torch.zeros_like(gradient)) + gradient
            parameters[name] -= LEARNING_RATE * velocity[name]

    batches = batches_of(experiment, 0, 1)
    assert len(batches) > 3
    for name, tensor in by_hand(experiment, dict(experiment.start.tensors), batches, step).items():
        torch.testing.assert_close(run.state.tensors[name], tensor, rtol=1e-5, atol=1e-7, msg=name)


def test_momd_without_momentum_is_fedavg_by_sgd(small: Config) -> None:
    plain = fibecfed.run(changed(small, SGD))
    same_run(plain, fibecfed.run(changed(small, method="momd", training={"learning_rate": 0.05, "momentum": 0.0})))
    other = fibecfed.run(changed(small, method="momd", training={"learning_rate": 0.05}))
    assert not all(torch.equal(other.state.tensors[n], t) for n, t in plain.state.tensors.items())


def test_the_method_decides_the_optimizer_unless_the_user_does(small: Config) -> None:
    def training(**values: Any) -> tuple[str | None, float | None]:
        found = resolve(changed(small, **values)).training
        return found.optimizer, found.momentum

    assert training() == ("adamw", 0.0)
    assert training(method="momd") == ("sgd", 0.9)
    assert training(method="momd", training={"momentum": 0.5}) == ("sgd", 0.5)
    assert training(training={"optimizer": "sgd"}) == ("sgd", 0.0)
    with pytest.raises(InputError, match=r"training\.momentum only applies to training\.optimizer=sgd"):
        training(training={"momentum": 0.5})


def test_server_momentum_by_hand(small: Config) -> None:
    """Three rounds of FedAvgM over the averages that the messages hold."""
    server = {"momentum": 0.8, "rate": 0.5}
    run = watched(changed(small, method="moms-adamd", server=server, federation={"rounds": 3}))
    name = next(p.name for p in run.experiment.layout if p.role == "lora_B")
    x, v = run.experiment.start.tensors[name].double(), 0.0
    for number in (1, 2, 3):
        exchanged = [(q, r) for q, r in run.of("train") if q.address.round == number]
        assert torch.equal(exchanged[0][0].tensors[name], x.float())
        weights = [float(r.info["examples"]) for _, r in exchanged]
        average = sum(w * r.tensors[name].double() for w, (_, r) in zip(weights, exchanged, strict=True)) / sum(weights)
        v = 0.8 * v + (average.float().double() - x)
        x = (x + 0.5 * v).float().double()
    torch.testing.assert_close(run.state.tensors[name], x.float(), rtol=1e-6, atol=1e-8)


def test_server_momentum_of_zero_and_rate_of_one_is_fedavg(small: Config) -> None:
    rounds = {"federation": {"rounds": 3}}
    plain = fibecfed.run(changed(small, rounds))
    same_run(plain, fibecfed.run(changed(small, rounds, method="moms-adamd", server={"momentum": 0.0, "rate": 1.0})))


def test_fedprox_steps_by_hand(small: Config) -> None:
    mu = 3.0
    config = changed(small, ONE_DEVICE, SGD, method="fedprox", proximal={"mu": mu})
    run, experiment = watched(config), assemble(config)
    start = dict(experiment.start.tensors)

    def step(parameters: Parameters, gradients: dict[str, torch.Tensor]) -> None:
        for name, gradient in gradients.items():
            parameters[name] -= LEARNING_RATE * (gradient + mu * (parameters[name] - start[name]))

    for name, tensor in by_hand(experiment, start, batches_of(experiment, 0, 1), step).items():
        torch.testing.assert_close(run.state.tensors[name], tensor, rtol=1e-5, atol=1e-7, msg=name)


def test_fedprox_without_a_pull_is_fedavg_and_with_a_strong_one_hardly_moves(small: Config) -> None:
    rounds = {"federation": {"rounds": 3}}
    plain = fibecfed.run(changed(small, rounds))
    same_run(plain, fibecfed.run(changed(small, rounds, method="fedprox", proximal={"mu": 0.0})))
    moved = {}
    for mu in (0.0, 10.0):
        config = changed(small, ONE_DEVICE, SGD, method="fedprox", proximal={"mu": mu})
        run = watched(config)
        start = run.experiment.start.tensors
        moved[mu] = sum(float((t - start[n]).square().sum()) for n, t in run.state.tensors.items())
    assert 0 < moved[10.0] < moved[0.0] / 2


@pytest.mark.parametrize(
    ("method", "values", "sentence"),
    [
        ("fedavg-lora", {"server": {"rate": 0.5}}, "method=fedavg-lora does not use server.rate; .* of moms-adamd"),
        ("momd", {"proximal": {"mu": 1.0}}, "does not use proximal.mu; it is a setting of fedprox"),
        ("fedprox", {"fedalt": {"head": True}}, "does not use fedalt.head; it is a setting of fedalt"),
    ],
)
def test_another_methods_setting_is_refused(small: Config, method: str, values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        assemble(changed(small, values, method=method))
