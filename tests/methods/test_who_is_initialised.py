"""Initialization asks the round's own devices; one that lost its state gets the warm-up's layers again."""

from pathlib import Path
from typing import Any

import pytest
import torch

import fibecfed
from baselines import changed, listening
from crash import Crash, CrashAt
from fibecfed import Config
from fibecfed.federation import Reply, Request
from fibecfed.runtime import assemble

Messages = list[tuple[Request, Reply]]


@pytest.fixture
def base(small: Config) -> Config:
    values: dict[str, Any] = {"federation": {"rounds": 4, "sampled": 2}, "warm_up": {"rounds": 1}}
    return changed(small, method="fibecfed", sharing={"count": 1}, **values)


def asked(seen: Messages, stage: str, round: int) -> dict[int, Reply]:
    return {
        q.address.device: r for q, r in seen if (q.address.stage, q.address.round) == (stage, round)
    }  # fmt: skip


def test_initialization_asks_the_devices_of_the_next_round(base: Config) -> None:
    seen: Messages = []
    with listening(seen):
        fibecfed.run(base)
    scored, trained = asked(seen, "initialize", 2), asked(seen, "train", 2)
    assert set(scored) == set(trained) and len(scored) == 2
    assert all(reply.info["examples_scored"] for reply in scored.values())
    assert not any(reply.info["examples_scored"] for reply in trained.values())


def test_fewer_are_drawn_among_them_and_more_beside_them(base: Config) -> None:
    seen: dict[int, set[int]] = {}
    for devices in (1, 4):
        experiment = assemble(changed(base, sharing={"devices": devices}))
        stages = {stage.name: stage for stage in experiment.method.stages}
        own = experiment.server.cohort(experiment.start, stages["train"])
        seen[devices] = set(experiment.server.cohort(experiment.start, stages["initialize"]))
        assert len(seen[devices]) == devices
        assert seen[devices] < set(own) if devices == 1 else seen[devices] > set(own)


def test_a_device_that_was_only_initialised_counts_as_never_trained(base: Config) -> None:
    experiment = assemble(changed(base, federation={"rounds": 2}, sharing={"devices": 5}))
    state = experiment.start
    trained: set[int] = set()
    for done in experiment.server.run(state):
        state = done.state
        trained |= set(done.cohort) if done.stage.name == "train" else set()
        assert set(experiment.method.personal_devices(state)) == trained
    assert len(state.device_versions) == 5 > len(trained) == 2


def test_a_lost_state_starts_again_from_the_warm_ups_layers(base: Config, tmp_path: Path) -> None:
    config = changed(base, federation={"rounds": 5, "sampled": 6})
    with pytest.raises(Crash):
        fibecfed.run(config, tmp_path / "run", callbacks=[CrashAt(4)])
    for file in (tmp_path / "run" / "devices" / "2").iterdir():
        file.unlink()
    seen: Messages = []
    with listening(seen):
        state = fibecfed.resume(tmp_path / "run").state
    (first, answer), (second, last) = [(q, r) for q, r in seen if q.address.device == 2][:2]
    layers = {name for name in second.tensors if ".layer." in name}
    assert not layers <= set(first.tensors)  # the server could not know
    assert answer.info["state_lost"] == "missing" and answer.address.state_version == first.address.state_version
    assert all(not torch.equal(answer.tensors[n], first.tensors[n]) for n in first.tensors if "lora_B" in n)
    assert layers == {n for n in state.tensors if ".layer." in n}
    assert last.address.state_version == second.address.state_version + 1
    kept = assemble(config).site.initial
    local = sorted(layers - set(first.tensors))
    assert local and all(torch.equal(second.tensors[name], state.tensors[name]) for name in local)
    assert any(not torch.equal(second.tensors[name], kept[name]) for name in local)  # not where nothing had trained
    assert 2 in state.info["met"]
