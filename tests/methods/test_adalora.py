"""adalora: importance, allocation and budget against PEFT's own; what is pruned stays 0 and no longer travels."""

from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from peft.tuners.adalora import AdaLoraLayer, RankAllocator
from torch import nn
from transformers import AutoModel

import fibecfed
from baselines import ONE_DEVICE, Parameters, Watched, batches_of, by_hand, changed, entries, watched
from fibecfed import Config, InputError
from fibecfed.models import PooledClassifier
from fibecfed.runtime import assemble
from fibecfed.sharing.triplets import TripletImportance, TripletMap, allocate, cubic_budget, pack, triplet_maps, unpack
from fibecfed.tuning import Layout, Parameter, put_tensors, read_tensors

RANKS: dict[str, Any] = {"method": "adalora", "adalora": {"init_rank": 4, "start": 0.2, "end": 0.8}}


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.first(x)))


def peft_toy() -> tuple[Any, list[TripletMap], RankAllocator]:
    torch.manual_seed(0)
    settings = peft.AdaLoraConfig(
        init_r=4, target_r=2, total_step=20, tinit=2, tfinal=4, deltaT=1, beta1=0.7, beta2=0.6,
        target_modules=["first", "second"],
    )  # fmt: skip
    model: Any = peft.get_peft_model(Toy(), settings)
    for name, p in model.named_parameters():
        if "lora_" in name:
            p.data.normal_()
    stems = [n.removesuffix(".lora_E.default") for n, _ in model.named_parameters() if n.endswith("lora_E.default")]
    maps = [TripletMap(*(f"{s}.lora_{part}.default" for part in "ABE"), 4) for s in stems]
    return model, maps, RankAllocator(model, settings, "default")


@pytest.mark.parametrize("budget", [7, 4, 1])
def test_importance_and_allocation_are_those_of_peft(budget: int) -> None:
    model, maps, theirs = peft_toy()
    active = [range(4), range(4)]
    ours = TripletImportance(maps, active, 0.7, 0.6)
    parameters = dict(model.named_parameters())
    for _ in range(5):
        model.zero_grad()
        torch.tanh(model(torch.randn(8, 6))).square().mean().backward()
        ours.observe(parameters)
        theirs.update_ipt(model)
        for name, p in parameters.items():
            if "lora_" in name:
                p.data -= 0.01 * p.grad
    kept = allocate(ours.result()["importance"].numpy(), active, budget)
    masks = theirs.mask_to_budget(model, budget)
    assert [np.flatnonzero(masks[m.diagonal]).tolist() for m in maps] == kept
    assert sum(map(len, kept)) == budget


def test_importance_of_those_that_are_left_only() -> None:
    _, maps, _ = peft_toy()
    ours = TripletImportance(maps, [[0, 2], [3]], 0.7, 0.6)
    whole = TripletImportance(maps, [range(4), range(4)], 0.7, 0.6)
    parameters = {}
    for m in maps:
        for name, axis in m.parts():
            parameters[name] = nn.Parameter(torch.randn((4, 5) if axis == 0 else (5, 4)))
            parameters[name].grad = torch.randn_like(parameters[name])
    for observer in (ours, whole):
        observer.observe(parameters)
    assert torch.equal(ours.result()["importance"], whole.result()["importance"][[0, 2, 7]])


def test_the_budget_is_that_of_peft() -> None:
    _, _, theirs = peft_toy()
    for number in range(1, 21):
        assert cubic_budget(number, 20, 8, 4, 2 / 20, 16 / 20) == theirs.budget_schedule(number)[0], number


def test_allocation_by_hand() -> None:
    importance = np.array([3.0, 1.0, 2.0, 2.0, 5.0])
    active = [[0, 4], [1, 2], [7]]
    assert allocate(importance, active, 5) == [[0, 4], [1, 2], [7]]
    assert allocate(importance, active, 3) == [[0], [1], [7]]  # of two alike the lower
    assert allocate(importance, active, 1) == [[], [], [7]]


def test_packing_keeps_what_is_left() -> None:
    maps = [TripletMap("a.q", "a.p", "a.e", 3), TripletMap("b.q", "b.p", "b.e", 3)]
    shapes = {"q": (3, 4), "p": (5, 3), "e": (3, 1)}
    layout = Layout(tuple(Parameter(f"{m}.{k}", s, 0, "") for m in "ab" for k, s in shapes.items()), 1)
    tensors = {p.name: torch.randn(p.shape) for p in layout} | {"head": torch.ones(2)}
    packed = pack(tensors, maps, [[0, 2], []])
    assert {n: tuple(t.shape) for n, t in packed.items()} == {"head": (2,), "a.q": (2, 4), "a.p": (5, 2), "a.e": (2, 1)}
    whole = unpack(packed, maps, [[0, 2], []], layout)
    for name, tensor in whole.items():
        if name.startswith("b."):
            assert not tensor.any()
        elif name == "a.p":
            assert torch.equal(tensor[:, [0, 2]], tensors[name][:, [0, 2]]) and not tensor[:, 1].any()
        elif name != "head":
            assert torch.equal(tensor[[0, 2]], tensors[name][[0, 2]]) and not tensor[1].any()


def lora_entries(run: Watched, active: list[list[int]]) -> int:
    """R (d_in + d_out + 1) over the maps."""
    shapes = {p.name: p.shape for p in run.experiment.layout}
    maps = triplet_maps(run.experiment.layout)
    return sum(len(own) * (shapes[m.q][1] + shapes[m.p][0] + 1) for m, own in zip(maps, active, strict=True))


@pytest.mark.parametrize("training", [{}, {"keep_optimizer": True, "weight_decay": 0.1}])
def test_traffic_shrinks_with_the_budget_and_what_is_pruned_stays_zero(small: Config, training: dict[str, Any]) -> None:
    run = watched(changed(small, RANKS, training=training, federation={"rounds": 6, "sampled": 6}))
    layout, maps = run.experiment.layout, triplet_maps(run.experiment.layout)
    head = sum(p.size for p in layout if p.role == "head")
    first, last = 4 * len(maps), 2 * len(maps)
    left: dict[int, list[list[int]]] = {}
    for request, reply in run.of("train"):
        number, active = request.address.round, request.info["active"]
        left[number] = active
        expected = lora_entries(run, active) + head
        assert entries(request.tensors.values()) == expected
        asked = cubic_budget(number, 6, first, last, 0.2, 0.8) < sum(map(len, active))
        assert entries(reply.tensors.values()) == expected + (sum(map(len, active)) if asked else 0)
    counts = [sum(map(len, left[n])) for n in sorted(left)]
    assert counts[0] == counts[1] == first and counts[-1] == last and len(set(counts)) > 3
    for one, next_one in zip(list(left.values()), list(left.values())[1:], strict=False):
        assert all(set(b) <= set(a) for a, b in zip(one, next_one, strict=True))
    assert len({len(own) for own in run.state.info["active"]}) > 1  # ranks differ
    for m, own in zip(maps, run.state.info["active"], strict=True):
        gone = sorted(set(range(4)) - set(own))
        for name, axis in m.parts():
            assert not run.state.tensors[name].index_select(axis, torch.tensor(gone, dtype=torch.int64)).any()
            if own:
                assert run.state.tensors[name].index_select(axis, torch.tensor(own)).any()


def test_a_device_never_moves_what_is_pruned(small: Config) -> None:
    """With a kept optimizer, whose momentum would move it."""
    keep = {"training": {"keep_optimizer": True}, "federation": {"rounds": 5, "devices": 1, "sampled": 1}}
    experiment = assemble(changed(small, RANKS, keep, data={"partition": {"kind": "iid"}}))
    executor, seen = experiment.site.executor, []
    inner = executor.result

    def recording(job: Any) -> Any:
        result = inner(job)
        seen.append(result.tensors)
        return result

    executor.result = recording
    state = experiment.start
    for done in experiment.server.run(state):
        for m, own in zip(triplet_maps(experiment.layout), state.info["active"], strict=True):
            gone = torch.tensor(sorted(set(range(4)) - set(own)), dtype=torch.int64)
            assert all(not seen[-1][name].index_select(axis, gone).any() for name, axis in m.parts())
        state = done.state
    assert sum(map(len, state.info["active"])) == 2 * len(state.info["active"])


def test_the_server_allocates_from_the_summed_importance(small: Config) -> None:
    run = watched(changed(small, RANKS, federation={"rounds": 4, "sampled": 4}))
    checked = 0
    for number in (1, 2, 3):
        exchanged = [(q, r) for q, r in run.of("train") if q.address.round == number]
        before = exchanged[0][0].info["active"]
        after = next(q for q, _ in run.of("train") if q.address.round == number + 1).info["active"]
        if "importance" not in exchanged[0][1].tensors:
            assert before == after
            continue
        total = sum(r.tensors["importance"].double() for _, r in exchanged).numpy()
        size = sum(map(len, after))
        kept = set(np.argsort(-total, kind="stable")[:size].tolist())
        flat = [(m, t) for m, own in enumerate(before) for t in own]
        assert {flat[i] for i in kept} == {(m, t) for m, own in enumerate(after) for t in own}
        checked += 1
    assert checked


def test_one_round_by_hand_with_the_penalty(small: Config) -> None:
    sgd = {"training": {"optimizer": "sgd", "learning_rate": 0.05}}
    run = watched(changed(small, ONE_DEVICE, RANKS, sgd, adalora={"init_rank": 2, "orthogonality": 0.3}))
    experiment = assemble(run.experiment.config)

    def step(parameters: Parameters, gradients: dict[str, torch.Tensor]) -> None:
        for name, gradient in gradients.items():
            total = gradient.clone()
            value = parameters[name]
            if ".lora_A." in name:  # Q: d ||Q Q^T - I||^2 / dQ = 4 (Q Q^T - I) Q
                total += 0.3 * 4 * (value @ value.T - torch.eye(2)) @ value
            elif ".lora_B." in name:
                total += 0.3 * 4 * value @ (value.T @ value - torch.eye(2))
            value -= 0.05 * total

    expected = by_hand(experiment, dict(experiment.start.tensors), batches_of(experiment, 0, 1), step)
    for name, tensor in expected.items():
        torch.testing.assert_close(run.state.tensors[name], tensor, rtol=1e-4, atol=1e-6, msg=name)


def test_nothing_is_pruned_where_the_rank_is_to_stay(small: Config) -> None:
    run = watched(changed(small, method="adalora", adalora={"init_rank": 2}, federation={"rounds": 4}))
    assert all(own == [0, 1] for own in run.state.info["active"])
    assert not any("importance" in r.tensors for _, r in run.of("train"))
    assert len({entries(m.tensors.values()) for exchange in run.of("train") for m in exchange}) == 1
    decided = run.experiment.method.decisions(run.experiment.site, run.state)
    assert set(decided["ranks"].values()) == {2}


def test_the_saved_adapter_is_an_ordinary_one_with_the_same_logits(small: Config, tmp_path: Path) -> None:
    config = changed(small, RANKS, lora={"rank": 1}, federation={"rounds": 4}, training={"learning_rate": 0.1})
    state = fibecfed.run(config, tmp_path / "run").state
    assert min(map(len, state.info["active"])) < max(map(len, state.info["active"]))
    experiment = assemble(config)
    put_tensors(experiment.model, state.tensors)
    batch = experiment.data.held_out.batch(np.arange(12))
    base = AutoModel.from_pretrained(config.model.name)
    saved: Any = peft.PeftModel.from_pretrained(base, str(tmp_path / "run" / "adapter")).eval()
    assert saved.peft_config["default"].peft_type == "LORA"
    classifier = PooledClassifier(saved, "mean", base.config.hidden_size, 3)
    classifier.head.load_state_dict(read_tensors(tmp_path / "run" / "adapter" / "head.safetensors"))
    with torch.no_grad():
        expected = experiment.model(batch)
        torch.testing.assert_close(classifier(batch), expected, rtol=0, atol=1e-5)
        for layer in experiment.model.modules():
            if isinstance(layer, AdaLoraLayer):
                layer.lora_E["default"].zero_()
        assert (experiment.model(batch) - expected).abs().max() > 1e-3
    assert fibecfed.load(tmp_path / "run").logits(["thank you"]).shape == (1, 3)
    again = fibecfed.evaluate_run(tmp_path / "run")
    last = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1]
    assert f'"accuracy_global": {again["global"]["accuracy"]}' in last


def test_settings_that_contradict_each_other(small: Config) -> None:
    with pytest.raises(InputError, match=r"adalora\.init_rank=1 is below lora\.rank=2"):
        assemble(changed(small, method="adalora", adalora={"init_rank": 1}))
    with pytest.raises(InputError, match="must be below"):
        changed(small, adalora={"start": 0.8, "end": 0.8})
