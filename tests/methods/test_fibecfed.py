"""The FibecFed protocol: what travels, what stays, and that switching everything off leaves FedAvg."""

from pathlib import Path
from typing import Any

import pytest
import torch

import fibecfed
from baselines import listening
from crash import Crash, CrashAt
from fibecfed import Config, InputError
from fibecfed.callbacks import Callback
from fibecfed.config import build_config, merge, to_dict
from fibecfed.federation import Reply, Request, ServerState
from fibecfed.runtime import Experiment, assemble
from golden.cases import SWITCHES
from run_content import content

OFF = {
    "method": "fibecfed",
    "curriculum": {"score": "none"},
    "sharing": {"layers": "all", "rows": "dense"},
}


def changed(config: Config, **values: Any) -> Config:
    return build_config(merge(to_dict(config), values))


@pytest.fixture
def base(small: Config) -> Config:
    return changed(small, method="fibecfed", federation={"rounds": 6}, warm_up={"rounds": 1})


def settled(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in r.items() if k != "cpu_seconds"} for r in records]


def test_everything_switched_off_is_fedavg_bit_for_bit(small: Config) -> None:
    plain = fibecfed.run(changed(small, method="fedavg-lora", federation={"rounds": 3}))
    off = fibecfed.run(changed(small, **OFF, federation={"rounds": 3}))
    for name, tensor in plain.state.tensors.items():
        assert torch.equal(off.state.tensors[name], tensor), name
    assert settled(off.metrics) == settled(plain.metrics)


class Recorder:
    """Every message that crosses, in order."""

    def __init__(self, config: Config) -> None:
        self.seen: list[tuple[Request, Reply]] = []
        with listening(self.seen):
            self.state = fibecfed.run(config).state

    def of(self, stage: str) -> list[tuple[Request, Reply]]:
        return [(q, r) for q, r in self.seen if q.address.stage == stage]


def layer(name: str) -> int | None:
    return int(name.split(".layer.")[1].split(".")[0]) if ".layer." in name else None


def test_messages_hold_the_gal_the_head_and_layer_scores_and_nothing_else(base: Config) -> None:
    recorder = Recorder(changed(base, sharing={"count": 1}, warm_up={"rounds": 0}))
    state = recorder.state
    (gal,) = state.info["layers"]
    (asked, answered) = recorder.of("initialize")[0]
    assert set(answered.tensors) == {"layer_scores"}
    assert answered.tensors["layer_scores"].shape == (2,)
    assert recorder.of("train")
    for request, reply in recorder.of("train"):
        for message in (request, reply):
            assert {layer(name) for name in message.tensors} == {gal, None}
        assert set(request.tensors) == set(reply.tensors)
    for request, reply in recorder.seen:  # no example score hides in the headers
        for message in (request, reply):
            for key, value in message.info.items():
                assert not isinstance(value, list) or key in ("layers", "order"), key
    assert asked.tensors  # the model that scores


def test_the_warm_ups_layers_reach_a_device_once(base: Config) -> None:
    recorder = Recorder(changed(base, sharing={"count": 1}, federation={"rounds": 8}))
    state = recorder.state
    (gal,) = state.info["layers"]
    met: set[int] = set()
    whole = 0
    for request, reply in recorder.seen:
        device, layers = request.address.device, {layer(n) for n in request.tensors}
        if request.address.stage == "warm-up":
            assert layers == {0, 1, None}  # the warm-up is FedAvg
            continue
        if device in met:
            assert layers == {gal, None}
        else:
            whole += 1
            assert layers == {0, 1, None}
        met.add(device)
        if request.address.stage == "train":
            assert {layer(n) for n in reply.tensors} == {gal, None}
    assert whole == len(met)
    assert sorted(met) == state.info["met"]


class Watch(Callback):
    """Keeps the last experiment and state."""

    def started(self, experiment: Experiment, state: ServerState, records: object) -> None:
        self.experiment = experiment


def test_unselected_rows_stay_bit_identical(base: Config, tmp_path: Path) -> None:
    config = changed(base, sharing={"count": 1, "density": 0.5}, training={"weight_decay": 0.1}, warm_up={"rounds": 0})
    watch = Watch()
    result = fibecfed.run(config, callbacks=[watch])
    experiment, state = watch.experiment, result.state
    (gal,) = state.info["layers"]
    start = experiment.start.tensors
    moved = 0
    for number, version in state.device_versions.items():
        kept = experiment.site.store.load(number, version)
        assert kept is not None
        if not any(n.startswith("optimizer") for n in kept.memory) and len(kept.local) == len(
            [p for p in experiment.layout if p.layer is not None]
        ):
            continue  # scored in initialization, never trained
        assert {layer(n) for n in kept.local} == {1 - gal}
        for name, tensor in kept.local.items():
            rows = kept.memory[f"rows/{name}"]
            assert len(rows) == max(1, round(tensor.shape[0] / 2))
            still = torch.ones(tensor.shape[0], dtype=torch.bool)
            still[rows] = False
            assert torch.equal(tensor[still], start[name][still]), name
            moved += int(not torch.equal(tensor[rows], start[name][rows]))
    assert moved


def test_personalized_differs_from_global_and_never_sampled_devices_have_the_servers_model(base: Config) -> None:
    watch = Watch()
    state = fibecfed.run(changed(base, federation={"rounds": 2, "sampled": 2}), callbacks=[watch]).state
    known = set(state.device_versions)
    assert known
    assert known != set(range(6))
    never = next(iter(set(range(6)) - known))
    from fibecfed.federation import Device

    site = watch.experiment.site
    shared = {n: state.tensors[n] for n in watch.experiment.method.shared(state)}
    assert all(torch.equal(Device(site, never, 0).model(shared)[n], t) for n, t in shared.items())


RESUMED = ("auto warm-up", "functional", "consensus", "refreshed", "importance", "averaged at the end", "ridge head",
           "local head", "kept optimizer", "first training")  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("variant", RESUMED)
def test_resuming_after_every_kind_of_phase_changes_no_bit(base: Config, tmp_path: Path, variant: str) -> None:
    config = changed(base, federation={"rounds": 4}, **SWITCHES[variant])
    fibecfed.run(config, tmp_path / "whole")
    with pytest.raises(Crash):
        fibecfed.run(config, tmp_path / "cut", callbacks=[CrashAt(1)])
    for phases in (1, 1, 1):
        with pytest.raises(Crash):
            fibecfed.resume(tmp_path / "cut", callbacks=[CrashAt(phases)])
    fibecfed.resume(tmp_path / "cut")
    assert content(tmp_path / "cut") == content(tmp_path / "whole")


def test_a_device_that_lost_its_state_is_initialised_again_and_the_run_goes_on(base: Config, tmp_path: Path) -> None:
    config = changed(base, federation={"sampled": 6})
    with pytest.raises(Crash):
        fibecfed.run(config, tmp_path / "run", callbacks=[CrashAt(4)])
    lost = tmp_path / "run" / "devices" / "2"
    assert list(lost.iterdir())
    for file in lost.iterdir():
        file.unlink()
    result = fibecfed.resume(tmp_path / "run")
    assert result.summary["rounds"] == 6
    assert all(record["failures"] == 0 for record in result.metrics)
    assert (tmp_path / "run" / "adapters" / "2" / "adapter_model.safetensors").is_file()
    again = sum(p["examples_scored"] for n, p in result.summary["stages"].items() if n == "train")
    assert again > 0  # it scored its examples once more


def test_impossible_settings_are_refused_before_the_first_round(base: Config) -> None:
    for values, sentence in (
        ({"sharing": {"count": 9}}, "the model has 2"),
        ({"sharing": {"layers": "consensus"}, "warm_up": {"rounds": 0}}, "warm_up.rounds"),
        ({"sharing": {"count": "lossless"}, "warm_up": {"rounds": 0}}, "sharing.radius"),
        ({"method": "fedavg-lora", "curriculum": {"score": "loss"}}, "method=fibecfed"),
        ({"curriculum": {"cap": "auto", "score": "length"}}, "curriculum.score=fisher"),
        ({"curriculum": {"cap": "auto"}, "warm_up": {"rounds": 0}}, "warm_up.rounds above 0"),
    ):
        with pytest.raises(InputError, match=sentence):
            assemble(changed(base, **values))
