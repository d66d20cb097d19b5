"""fedalt, ffa-lora and fedsa-lora: what trains, what travels, and what stays."""

from typing import Any

import pytest
import torch

import fibecfed
from baselines import ONE_DEVICE, Parameters, Watched, batches_of, by_hand, changed, entries, same_run, watched
from fibecfed import Config, InputError
from fibecfed.federation import Device
from fibecfed.runtime import assemble


def travelled(run: Watched) -> set[str]:
    """The names that every message of every round held, both ways."""
    (names,) = {frozenset(m.tensors) for exchange in run.of("train") for m in exchange}
    return set(names)


def own(run: Watched, number: int) -> dict[str, torch.Tensor]:
    device = Device(run.experiment.site, number, run.state.device_versions[number])
    return run.experiment.method.personal(device, run.state)


def assert_bytes(run: Watched, expected_entries: int) -> None:
    for message in (m for exchange in run.of("train") for m in exchange):
        assert entries(message.tensors.values()) == expected_entries
    messages = len(run.of("train"))
    for direction in ("up", "down"):
        sent = run.result.summary["bytes"][direction]
        assert 4 * expected_entries * messages < sent < (4 * expected_entries + 4000) * messages


# fedalt


def test_only_the_lower_layers_and_the_head_travel(small: Config) -> None:
    run = watched(changed(small, method="fedalt"))
    layout, start = run.experiment.layout, run.experiment.start.tensors
    lower = {p.name for p in layout if p.layer in (0, None)}
    assert travelled(run) == lower
    assert_bytes(run, sum(p.size for p in layout if p.name in lower))
    assert all(torch.equal(run.state.tensors[n], start[n]) for n in layout.names if n not in lower)
    upper = next(p.name for p in layout if p.layer == 1 and p.role == "lora_B")
    kept = [own(run, number)[upper] for number in sorted(run.state.device_versions)]
    assert len(kept) > 2 and all(t.abs().max() > 0 for t in kept)
    assert not torch.equal(kept[0], kept[1])


def test_the_personal_part_trains_first_then_the_shared_one(small: Config) -> None:
    """One device, one round by plain SGD: the first half of the steps moves layer 1, the rest layer 0 and the head."""
    sgd = {"optimizer": "sgd", "learning_rate": 0.05}
    config = changed(small, ONE_DEVICE, method="fedalt", training=sgd)
    run, experiment = watched(config), assemble(config)
    layer = {p.name: p.layer for p in experiment.layout}

    def moving(personal: bool) -> Any:
        def step(parameters: Parameters, gradients: dict[str, torch.Tensor]) -> None:
            for name, gradient in gradients.items():
                if (layer[name] == 1) == personal:
                    parameters[name] -= 0.05 * gradient

        return step

    batches = batches_of(experiment, 0, 1)
    half = (len(batches) + 1) // 2
    tensors = by_hand(experiment, dict(experiment.start.tensors), batches[:half], moving(True))
    tensors = by_hand(experiment, tensors, batches[half:], moving(False))
    final = own(run, 0)
    for name, tensor in tensors.items():
        torch.testing.assert_close(final[name], tensor, rtol=1e-5, atol=1e-7, msg=name)


def test_fedalt_takes_as_many_steps_as_fedavg_for_fewer_operations(small: Config) -> None:
    plain, split = fibecfed.run(small), fibecfed.run(changed(small, method="fedalt"))
    assert split.summary["examples_trained"] == plain.summary["examples_trained"]
    assert split.summary["operations"] < plain.summary["operations"]  # no gradients of what is fixed


def test_with_full_passes_each_part_trains_on_every_batch(small: Config) -> None:
    config = changed(small, ONE_DEVICE, method="fedalt", fedalt={"passes": "full"})
    run = watched(config)
    ((request, _),) = run.of("train")
    job = run.job(Device(run.experiment.site, 0, 0), request)
    batches = batches_of(run.experiment, 0, 1)
    assert job.before is not None and not job.trained.keys() & job.before.trained.keys()
    for part in (job, job.before):
        assert [b.tolist() for b in part.batches] == [b.tolist() for b in batches]
    assert run.result.summary["examples_trained"] == 2 * len(run.experiment.data.train)


@pytest.mark.parametrize("training", [{}, {"keep_optimizer": True}])
def test_nothing_personal_is_fedavg(small: Config, training: dict[str, Any]) -> None:
    base = changed(small, federation={"rounds": 3}, training=training)
    alone = fibecfed.run(changed(base, method="fedalt", fedalt={"layers": 0}))
    same_run(fibecfed.run(base), alone)


def test_a_device_with_one_batch_trains_its_parts_in_turn(small: Config) -> None:
    one = {"training": {"batch_size": 200}, "federation": {"devices": 2, "sampled": 2, "rounds": 2}}
    run = watched(changed(small, one, method="fedalt"))
    shared = next(p.name for p in run.experiment.layout if p.layer == 0 and p.role == "lora_B")
    first, second = (
        next((q, r) for q, r in run.of("train") if q.address.round == n and q.address.device == 0) for n in (1, 2)
    )
    assert torch.equal(first[0].tensors[shared], first[1].tensors[shared])
    assert not torch.equal(second[0].tensors[shared], second[1].tensors[shared])
    upper = next(p.name for p in run.experiment.layout if p.layer == 1 and p.role == "lora_B")
    assert own(run, 0)[upper].abs().max() > 0
    assert first[1].info["examples_trained"] == second[1].info["examples_trained"] > 0


def test_what_cannot_be_shared_is_refused(small: Config) -> None:
    for values, sentence in (
        ({"fedalt": {"layers": 2, "head": True}}, "nothing to share"),
        ({"fedalt": {"layers": 3}}, "the model has 2"),
        ({"fedalt": {"head": True}, "model": {"head_init": "ridge"}}, "head_init"),
    ):
        with pytest.raises(InputError, match=sentence):
            assemble(changed(small, values, method="fedalt"))


# ffa-lora and fedsa-lora


def test_a_frozen_a_never_moves_or_travels_and_averages_are_exact(small: Config) -> None:
    run = watched(changed(small, method="ffa-lora", federation={"rounds": 1}))
    layout, start = run.experiment.layout, run.experiment.start.tensors
    frozen = {p.name for p in layout if p.role == "lora_A"}
    assert travelled(run) == set(layout.names) - frozen
    assert all(torch.equal(run.state.tensors[n], start[n]) for n in frozen)
    outs = sum(p.shape[0] for p in layout if p.role == "lora_B")
    assert_bytes(run, 2 * outs + sum(p.size for p in layout if p.role == "head"))
    b = next(p.name for p in layout if p.role == "lora_B")
    a = run.state.tensors[b.replace("lora_B", "lora_A")].double()
    weights = [float(r.info["examples"]) for _, r in run.of("train")]
    products = [w * r.tensors[b].double() @ a for w, (_, r) in zip(weights, run.of("train"), strict=True)]
    torch.testing.assert_close(run.state.tensors[b].double() @ a, sum(products) / sum(weights), rtol=1e-5, atol=1e-9)


def test_ffa_is_fibecfed_with_nothing_on_but_a_frozen_a(small: Config) -> None:
    three = changed(small, federation={"rounds": 3})
    off = {"curriculum": {"score": "none"}, "sharing": {"layers": "all", "rows": "dense", "freeze_a": True}}
    fixed = fibecfed.run(changed(three, off, method="fibecfed", warm_up={"rounds": 0}))
    ffa = fibecfed.run(changed(three, method="ffa-lora"))
    assert all(torch.equal(fixed.state.tensors[n], t) for n, t in ffa.state.tensors.items())


def test_fedsa_keeps_b_on_its_device(small: Config) -> None:
    run = watched(changed(small, method="fedsa-lora", federation={"sampled": 6, "rounds": 2}))
    layout = run.experiment.layout
    bs = [p.name for p in layout if p.role == "lora_B"]
    assert travelled(run) == set(layout.names) - set(bs)
    ins = sum(p.shape[1] for p in layout if p.role == "lora_A")
    assert_bytes(run, 2 * ins + sum(p.size for p in layout if p.role == "head"))
    assert all(not run.state.tensors[n].any() for n in bs)
    mine, yours = own(run, 0), own(run, 1)
    for p in layout:
        assert torch.equal(mine[p.name], yours[p.name]) == (p.role != "lora_B"), p.name


def test_fedsa_on_one_device_is_fedavg_seen_from_the_device(small: Config) -> None:
    one = changed(small, ONE_DEVICE, federation={"rounds": 3})
    plain = fibecfed.run(one)
    run = watched(changed(one, method="fedsa-lora"))
    final = own(run, 0)
    assert all(torch.equal(final[n], t) for n, t in plain.state.tensors.items())
