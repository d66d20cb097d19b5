"""delta-lora: the weights' move by hand, the server's replay, the adapter of rank 2r, and what travels."""

from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from peft.tuners.lora import LoraLayer
from transformers import AutoModel

import fibecfed
from baselines import ONE_DEVICE, batches_of, changed, entries, same_run, watched
from fibecfed import Config, InputError
from fibecfed.models import PooledClassifier
from fibecfed.runtime import Experiment, assemble
from fibecfed.tuning import put_tensors, read_tensors

RATIO, RATE, SCALE = 0.7, 0.5, 2.0  # alpha / r = 4 / 2
DELTA: dict[str, Any] = {"method": "delta-lora", "delta": {"ratio": RATIO, "start": 0}}
SGD = {"training": {"optimizer": "sgd", "learning_rate": RATE}}


def test_no_move_is_fedavg(small: Config) -> None:
    rounds = {"federation": {"rounds": 3}}
    still = fibecfed.run(changed(small, rounds, method="delta-lora", delta={"ratio": 0.0}))
    same_run(fibecfed.run(changed(small, rounds)), still)


def layers_of(model: Any) -> list[Any]:
    return [m for m in model.modules() if isinstance(m, LoraLayer)]


def product(layer: Any) -> torch.Tensor:
    return layer.lora_B["default"].weight.detach() @ layer.lora_A["default"].weight.detach()


def moved_by_hand(experiment: Experiment, start: dict[str, torch.Tensor], rounds: list[int], moves_from: int) -> Any:
    """Plain LoRA; from ``moves_from`` on every step writes W += lambda s (B'A' - BA) into the backbone itself."""
    plain = assemble(changed(experiment.config, method="fedavg-lora", tuning=None, delta={"ratio": 0.5, "start": None}))
    put_tensors(plain.model, {n: t for n, t in start.items() if ".move." not in n})
    names = set(plain.layout.names)
    trained = [p for n, p in plain.model.named_parameters() if n in names]
    for parameter in trained:
        parameter.requires_grad_(True)
    for number in rounds:
        for chosen in batches_of(plain, 0, number):
            batch = plain.data.train.batch(chosen)
            before = [product(layer) for layer in layers_of(plain.model)]
            loss = torch.nn.functional.cross_entropy(plain.model(batch), batch.targets)
            for parameter, gradient in zip(trained, torch.autograd.grad(loss, trained), strict=True):
                parameter.data -= RATE * gradient
            if number >= moves_from:
                for layer, old in zip(layers_of(plain.model), before, strict=True):
                    layer.get_base_layer().weight.data += RATIO * SCALE * (product(layer) - old)
    return plain.model


@pytest.mark.parametrize("start", [0, 1])
def test_the_move_of_every_step_by_hand(small: Config, start: int) -> None:
    """One device, so that the server's replay is the device's own move; two rounds, moving from round ``start`` + 1."""
    config = changed(
        small, ONE_DEVICE, SGD, DELTA, delta={"start": start}, federation={"rounds": 2}, training={"local_epochs": 5}
    )
    experiment = assemble(config)
    by_hand = moved_by_hand(experiment, dict(experiment.start.tensors), [1, 2], start + 1)
    state = fibecfed.run(config).state
    for name, parameter in by_hand.named_parameters():
        if name in state.tensors:
            torch.testing.assert_close(state.tensors[name], parameter.detach(), rtol=1e-3, atol=1e-5, msg=name)
    put_tensors(experiment.model, state.tensors)
    batch = experiment.data.train.batch(np.arange(16))
    with torch.no_grad():
        found, expected = experiment.model(batch), by_hand(batch)
        for layer in layers_of(by_hand):
            layer.get_base_layer().weight.data -= RATIO * SCALE * product(layer)
        assert (by_hand(batch) - expected).abs().max() > 1e-2  # the move shows
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_servers_weights_follow_the_averages_and_not_the_devices_moves(small: Config) -> None:
    run = watched(changed(small, DELTA, federation={"rounds": 1}, training={"local_epochs": 3}))
    replies = [r for _, r in run.of("train")]
    weights = [float(r.info["examples"]) for r in replies]
    stem = next(p.name for p in run.experiment.layout if p.role == "lora_B").removesuffix(".lora_B.default.weight")
    a, b = (f"{stem}.lora_{side}.default.weight" for side in "AB")
    start, state = run.experiment.start.tensors, run.state.tensors
    layer: Any = run.experiment.model.get_submodule(stem)
    put_tensors(run.experiment.model, state)
    with torch.no_grad():
        served = layer.move(torch.eye(layer.in_features)).T
    replayed = RATIO * SCALE * (state[b] @ state[a] - start[b] @ start[a])
    mean = RATIO * SCALE * sum(w * r.tensors[b] @ r.tensors[a] for w, r in zip(weights, replies, strict=True))
    torch.testing.assert_close(served, replayed, rtol=1e-4, atol=1e-7)
    assert (served - mean / sum(weights)).norm() > 0.01 * served.norm()


@pytest.mark.parametrize("start", [0, 1])
def test_the_saved_adapter_of_rank_2r_gives_the_same_logits(small: Config, tmp_path: Path, start: int) -> None:
    config = changed(small, DELTA, delta={"start": start}, federation={"rounds": 3})
    state = fibecfed.run(config, tmp_path / "run").state
    experiment = assemble(config)
    put_tensors(experiment.model, state.tensors)
    batch = experiment.data.held_out.batch(np.arange(12))
    base = AutoModel.from_pretrained(config.model.name)
    saved: Any = peft.PeftModel.from_pretrained(base, str(tmp_path / "run" / "adapter")).eval()
    assert saved.peft_config["default"].r == 4
    classifier = PooledClassifier(saved, "mean", base.config.hidden_size, 3)
    classifier.head.load_state_dict(read_tensors(tmp_path / "run" / "adapter" / "head.safetensors"))
    with torch.no_grad():
        expected = experiment.model(batch)
        torch.testing.assert_close(classifier(batch), expected, rtol=0, atol=1e-5)
        assert (expected - assemble(config).model(batch)).abs().max() > 1e-2
    texts = ["where is my kettle", "thank you so much"]
    ids = experiment.pretrained.tokenizer(texts, padding=True, return_tensors="pt")
    whole = type(batch)(ids["input_ids"], ids["attention_mask"], torch.zeros(2, dtype=torch.int64))
    with torch.no_grad():
        np.testing.assert_allclose(fibecfed.load(tmp_path / "run").logits(texts), experiment.model(whole), atol=1e-5)
    again = fibecfed.evaluate_run(tmp_path / "run")
    last = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1]
    assert f'"accuracy_global": {again["global"]["accuracy"]}' in last


def test_what_travels(small: Config) -> None:
    run = watched(changed(small, DELTA, delta={"start": 1}, federation={"rounds": 3}))
    layout = run.experiment.layout
    lora = sum(p.size for p in layout if p.role.startswith("lora"))
    head = sum(p.size for p in layout if p.role == "head")
    for request, reply in run.of("train"):
        moving = request.address.round > 1
        assert entries(request.tensors.values()) == head + lora * (2 if moving else 1)
        assert entries(reply.tensors.values()) == head + lora
    plain = watched(changed(small, DELTA, federation={"rounds": 2}))
    assert all(entries(q.tensors.values()) == head + lora for q, _ in plain.of("train"))


def test_a_start_after_the_end_is_refused(small: Config) -> None:
    with pytest.raises(InputError, match="past the last round"):
        assemble(changed(small, method="delta-lora", delta={"start": 2}))
