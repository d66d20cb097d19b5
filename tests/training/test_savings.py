"""Work that is skipped changes no number: no backward below the lowest layer that trains, and cached hidden states."""

from dataclasses import replace
from typing import Any

import pytest
import torch

import fibecfed
import tiny
from fibecfed import Config
from fibecfed.config import build_config, merge, to_dict
from fibecfed.runtime import assemble
from fibecfed.training import TrainJob

TOP_ONLY = {
    "method": "fibecfed",
    "curriculum": {"score": "none"},
    "sharing": {"layers": "last", "count": 1, "rows": "none"},
    "warm_up": {"rounds": 0},
    "training": {"local_epochs": 2},
}


def changed(config: Config, *values: Any) -> Config:
    content = to_dict(config)
    for value in values:
        content = merge(content, value)
    return build_config(content)


@pytest.fixture(params=["bert", "llama"])
def top(small: Config, request: pytest.FixtureRequest) -> Config:
    return changed(small, TOP_ONLY, {"model": {"name": str(request.getfixturevalue(request.param))}})


def test_the_cache_changes_no_number_beyond_rounding(top: Config) -> None:
    without = fibecfed.run(top)
    cached = fibecfed.run(changed(top, {"training": {"cache_mb": 50}}))
    for name, tensor in without.state.tensors.items():
        torch.testing.assert_close(cached.state.tensors[name], tensor, rtol=1e-3, atol=1e-5, msg=name)
    for before, after in zip(without.metrics, cached.metrics, strict=True):
        assert after["loss_global"] == pytest.approx(before["loss_global"], rel=1e-4)
        assert after["examples_trained"] == before["examples_trained"]
        assert after["operations"] < before["operations"]


def test_a_cache_too_small_or_emptied_changes_no_bit(top: Config) -> None:
    roomy = fibecfed.run(changed(top, {"training": {"cache_mb": 50}, "federation": {"rounds": 4}}))
    again = fibecfed.run(changed(top, {"training": {"cache_mb": 50}, "federation": {"rounds": 4}}))
    assert all(torch.equal(again.state.tensors[n], t) for n, t in roomy.state.tensors.items())
    experiment = assemble(changed(top, {"training": {"cache_mb": 50}, "federation": {"rounds": 4}}))
    state = experiment.start
    for done in experiment.server.run(state):
        state = done.state
        experiment.site.executor.hidden_states._entries.clear()  # as after a crash
    assert all(torch.equal(state.tensors[n], t) for n, t in roomy.state.tensors.items())


@pytest.mark.parametrize("kind", ["deberta", "modernbert", "gpt2", "distilbert"])
def test_the_cache_knows_what_a_layer_returns(small: Config, kind: str) -> None:
    top = changed(small, TOP_ONLY, {"model": {"name": str(tiny.folder(kind))}, "federation": {"rounds": 1}})
    without = fibecfed.run(top).state.tensors
    for name, tensor in fibecfed.run(changed(top, {"training": {"cache_mb": 50}})).state.tensors.items():
        torch.testing.assert_close(tensor, without[name], rtol=1e-3, atol=1e-5, msg=name)


def test_the_cache_is_bounded(top: Config) -> None:
    experiment = assemble(changed(top, {"training": {"cache_mb": 1}}))
    store = experiment.site.executor.hidden_states
    store._limit = 40_000
    state = experiment.start
    for done in experiment.server.run(state):
        state = done.state
        assert sum(e.hidden.numel() * 4 for e in store._entries.values()) <= 40_000
    assert store._entries


def test_changed_lower_layers_are_never_taken_from_the_cache(top: Config) -> None:
    experiment = assemble(changed(top, {"training": {"cache_mb": 50}}))
    executor, layout = experiment.site.executor, experiment.layout
    examples = experiment.data.devices.indices(0)
    tensors = dict(experiment.start.tensors)
    first, _ = executor.hidden_states.get(examples, 1, tensors, executor.device)
    assert first is not None
    name = next(p.name for p in layout if p.layer == 0 and p.role == "lora_B")
    tensors[name] = torch.ones_like(tensors[name])
    parameters = dict(executor.model.named_parameters())
    parameters[name].data.copy_(tensors[name])
    second, _ = executor.hidden_states.get(examples, 1, tensors, executor.device)
    assert second is not None
    assert not torch.allclose(first.hidden, second.hidden)


def test_skipping_the_backward_pass_changes_no_bit(top: Config) -> None:
    experiment = assemble(top)
    executor, layout = experiment.site.executor, experiment.layout
    batches = [experiment.data.devices.indices(0)[:8]]
    upper = {p.name: None for p in layout if p.layer in (1, None)}
    still = {p.name: torch.arange(0) for p in layout if p.layer == 0}

    def train(trained: dict[str, Any]) -> Any:
        job = TrainJob(0, 1, experiment.start.tensors, trained, batches, 0.01, 0)
        return executor.result(job)

    skipped, whole = train(upper), train(upper | still)
    assert all(torch.equal(skipped.tensors[name], whole.tensors[name]) for name in upper)
    assert skipped.operations < whole.operations


def test_micro_batches_and_recomputation_go_with_the_cache(top: Config) -> None:
    plain = fibecfed.run(changed(top, {"training": {"cache_mb": 50}}))
    for extra in ({"micro_batch_size": 3}, {"gradient_checkpointing": True}):
        other = fibecfed.run(changed(top, {"training": {"cache_mb": 50, **extra}}))
        for name, tensor in plain.state.tensors.items():
            torch.testing.assert_close(other.state.tensors[name], tensor, rtol=1e-3, atol=1e-5, msg=name)


def test_cut_texts_are_never_taken_from_the_cache(top: Config) -> None:
    results = []
    for cache in (0, 50):
        experiment = assemble(changed(top, {"training": {"cache_mb": cache}}))
        executor, layout = experiment.site.executor, experiment.layout
        upper = {p.name: None for p in layout if p.layer == 1}
        whole = TrainJob(0, 1, experiment.start.tensors, upper, [experiment.data.devices.indices(0)], 0.1, 0)
        results.append([executor.result(job).tensors for job in (whole, replace(whole, max_tokens=4))])
    (plain, plain_cut), (_, cached_cut) = results
    assert all(torch.equal(cached_cut[n], t) for n, t in plain_cut.items())
    assert not all(torch.equal(plain[n], t) for n, t in plain_cut.items())


def test_alternating_parts_may_use_the_cache(small: Config) -> None:
    alternating = changed(small, {"method": "fedalt"})
    without, cached = fibecfed.run(alternating), fibecfed.run(changed(alternating, {"training": {"cache_mb": 50}}))
    for name, tensor in without.state.tensors.items():
        torch.testing.assert_close(cached.state.tensors[name], tensor, rtol=1e-3, atol=1e-5, msg=name)
    assert cached.summary["operations"] != without.summary["operations"]
