"""Work that is skipped changes no number: no backward below the lowest layer that trains, and cached hidden states."""

import logging
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

import tiny
from fibecfed import Config, InputError
from fibecfed.config import build_config, merge, to_dict
from fibecfed.runs.estimate import estimate
from fibecfed.runtime import assemble
from fibecfed.training import SequentialExecutor, TrainJob
from fibecfed.training.cache import Pass
from fibecfed.training.memory import cache_bytes, free_bytes

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


def with_cache(config: Config, size: int | str) -> Config:
    return changed(config, {"training": {"cache_mb": size}, "federation": {"rounds": 4}})


@dataclass
class Watched:
    """A run: its last tensors, metrics without seconds, and how often the lowest layer computed (T, d) states."""

    tensors: Mapping[str, torch.Tensor]
    metrics: list[Any]
    computed: int
    executor: SequentialExecutor


def watched(config: Config, limit: int | None = None, forgets: bool = False) -> Watched:
    """``limit``: bytes; ``forgets``: what is kept goes after each stage, as in a crash."""
    experiment = assemble(config)
    executor, computed, metrics = experiment.site.executor, [0], list[Any]()
    store = executor.hidden_states
    if limit is not None:
        store._limit = limit
    attention = next(m for n, m in executor.blocks[0].named_modules() if n in ("attention", "self_attn", "attn"))
    attention.register_forward_hook(lambda module, inputs, output: computed.__setitem__(0, computed[0] + 1))
    state = experiment.start
    for done in experiment.server.run(state):
        state = done.state
        metrics.append((done.loss, state.costs.operations))
        if forgets:
            store._states.clear()
            store._bytes = 0
        assert store._bytes == sum(t.numel() * t.element_size() for t in store._states.values()) <= store._limit
    return Watched(state.tensors, metrics, computed[0], executor)


def assert_same_bits(one: Watched, other: Watched) -> None:
    assert one.metrics == other.metrics  # operations, too: they do not depend on what was kept
    assert one.tensors.keys() == other.tensors.keys()
    assert all(torch.equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items())


def test_by_default_fewer_passes_of_frozen_layers_give_the_same_bits(top: Config) -> None:
    default = changed(top, {"federation": {"rounds": 4}})
    assert default.training.cache_mb == "auto"
    without, cached = watched(with_cache(top, 0)), watched(default)
    assert cached.computed < without.computed
    assert_same_bits(cached, without)
    assert_same_bits(watched(default, limit=20_000), without)  # too small for all
    assert_same_bits(watched(default, forgets=True), without)


def test_only_the_head_trains_and_all_layers_are_kept(small: Config) -> None:
    config = changed(small, {"method": "head-only"})
    without, cached = watched(with_cache(config, 0)), watched(with_cache(config, "auto"))
    assert cached.computed < without.computed
    assert_same_bits(cached, without)


def test_a_dry_run_knows_what_will_be_kept(top: Config) -> None:
    content = {"federation": {"devices": 2, "sampled": 2, "rounds": 1}, "training": {"local_epochs": 1}}
    config = changed(top, content)
    expected = estimate(assemble(config)).kept_bytes
    kept = watched(config).executor.hidden_states._bytes
    assert 0.6 * kept < expected <= kept  # which are padded to the longest of their batches
    assert estimate(assemble(with_cache(config, 0))).kept_bytes == 0


@pytest.mark.parametrize("kind", ["deberta", "modernbert", "gpt2"])
def test_the_cache_knows_what_a_layer_returns(small: Config, kind: str) -> None:
    top = changed(small, TOP_ONLY, {"model": {"name": str(tiny.folder(kind))}})
    without, cached = watched(with_cache(top, 0)), watched(with_cache(top, 50))
    assert cached.computed < without.computed
    assert_same_bits(cached, without)


def test_states_that_depend_on_the_batch_are_computed_each_time(
    top: Config, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    without = watched(with_cache(top, 0))
    monkeypatch.setattr(torch, "equal", lambda one, other: False)
    with caplog.at_level(logging.INFO, "fibecfed"):
        cached = watched(with_cache(top, 50))
    monkeypatch.undo()
    assert "here they depend on the batch" in caplog.text
    assert cached.executor.hidden_states._same
    assert not any(cached.executor.hidden_states._same.values())
    assert_same_bits(cached, without)


def test_changed_lower_layers_are_never_taken_from_the_cache(top: Config) -> None:
    executor = watched(with_cache(top, 50)).executor
    experiment = assemble(with_cache(top, 0))
    tensors = dict(experiment.start.tensors)
    name = next(p.name for p in experiment.layout if p.layer == 0 and p.role in ("lora_B", "up"))
    tensors[name] = torch.ones_like(tensors[name])
    upper = {p.name: None for p in experiment.layout if p.layer != 0}
    batches = [experiment.data.devices.indices(0)[:8]] * 3
    job = TrainJob(0, 1, tensors, upper, batches, 0.01, 0)
    kept, computed = executor.result(job).tensors, experiment.site.executor.result(job).tensors
    assert all(torch.equal(kept[name], computed[name]) for name in upper)


def test_a_quarter_of_what_is_free_is_shared(top: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fibecfed.training.memory.free_bytes", lambda: 4_000_000)
    monkeypatch.setattr("fibecfed.training.memory.cores_here", lambda: 2)
    monkeypatch.setattr("fibecfed.training.memory.all_cores", lambda: 4)
    here = torch.device("cpu")
    assert cache_bytes(top, here, 1) == 500_000  # this run has half of the cores
    assert cache_bytes(top, here, 5) == 100_000
    assert cache_bytes(with_cache(top, 8), here, 4) == 2 * 2**20
    assert cache_bytes(with_cache(top, 0), here, 1) == 0
    assert cache_bytes(changed(top, {"lora": {"dropout": 0.1}}), here, 1) == 0
    monkeypatch.undo()
    assert 2**20 < free_bytes() < 2**44


def test_layers_without_a_vector_for_each_token_are_computed(top: Config, caplog: pytest.LogCaptureFixture) -> None:
    for size, there in (("auto", True), (50, False)):
        store = assemble(with_cache(top, size)).site.executor.hidden_states
        with caplog.at_level(logging.INFO, "fibecfed"), nullcontext() if there else pytest.raises(InputError):
            store._keep("digest", Pass(np.arange(4), 0, 4, 7), torch.zeros(4 * 7, 16))
        assert not store._limit
    assert "No hidden states are kept" in caplog.text


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


@pytest.mark.parametrize("extra", [{"micro_batch_size": 3}, {"gradient_checkpointing": True}], ids=str)
def test_micro_batches_and_recomputation_go_with_the_cache(top: Config, extra: dict[str, Any]) -> None:
    config = changed(top, {"training": extra})
    without, cached = watched(with_cache(config, 0)), watched(with_cache(config, 50))
    assert cached.computed < without.computed
    assert_same_bits(cached, without)


def test_cut_texts_are_never_taken_from_the_cache(top: Config) -> None:
    results = []
    for cache in (0, 50):
        experiment = assemble(changed(top, {"training": {"cache_mb": cache}}))
        executor, layout = experiment.site.executor, experiment.layout
        upper = {p.name: None for p in layout if p.layer == 1}
        whole = TrainJob(0, 1, experiment.start.tensors, upper, [experiment.data.devices.indices(0)], 0.1, 0)
        jobs = (whole, whole, whole, replace(whole, max_tokens=4))
        results.append([executor.result(job).tensors for job in jobs])
    (plain, *_, plain_cut), (*_, cached_cut) = results
    assert all(torch.equal(cached_cut[n], t) for n, t in plain_cut.items())
    assert not all(torch.equal(plain[n], t) for n, t in plain_cut.items())


def test_alternating_parts_may_use_the_cache(small: Config) -> None:
    alternating = changed(small, {"method": "fedalt"})
    assert_same_bits(watched(with_cache(alternating, 50)), watched(with_cache(alternating, 0)))
