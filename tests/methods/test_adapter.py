"""`adapter`, and FibecFed's curriculum and sharing over bottleneck adapters."""

from pathlib import Path
from typing import Any

import pytest
import torch

import fibecfed
from every_tuning import WIDTH, check_modes, check_run, plain_steps
from fibecfed import Config, InputError
from fibecfed.config import build_config, merge, to_dict
from fibecfed.federation import ServerState
from fibecfed.runs.estimate import estimate
from fibecfed.runtime import Experiment, assemble


def changed(config: Config, **values: Any) -> Config:
    return build_config(merge(to_dict(config), {"adapter": {"width": WIDTH}, **values}))


@pytest.fixture
def base(small: Config) -> Config:
    return changed(small, method="adapter", federation={"rounds": 3})


def test_parameters_and_bytes_by_formula(base: Config) -> None:
    experiment = assemble(base)
    layers, d, m, classes = 2, 16, WIDTH, 3
    assert experiment.layout.size == layers * (2 * (2 * m * d + m + d) + 4 * d) + classes * d + classes
    found = estimate(experiment)
    assert found.round.parameters_trained == found.round.parameters_sent == experiment.layout.size
    spent = fibecfed.run(base).summary["bytes"]  # three rounds of three devices
    for direction in ("up", "down"):
        assert 0 < spent[direction] - 9 * 4 * experiment.layout.size < 9 * 5000


@pytest.mark.parametrize("head", ["pooled", "native"])
def test_run_resume_evaluate_predict(base: Config, tmp_path: Path, head: str) -> None:
    check_run(changed(base, model={"head": head}), tmp_path)
    card = (tmp_path / "whole" / "README.md").read_text()
    assert "lora" not in card.lower() and "peft" not in card.lower()
    assert "fibecfed.load" in card


def test_micro_batches_recomputation_and_a_solved_head(base: Config) -> None:
    check_modes(base)


def test_a_round_by_a_plain_loop(base: Config) -> None:
    plain_steps(changed(base, federation={"rounds": 1, "devices": 2, "sampled": 2}))


class Watch(fibecfed.Callback):
    def started(self, experiment: Experiment, state: ServerState, records: object) -> None:
        self.experiment = experiment


def test_fibecfed_over_adapters(base: Config, tmp_path: Path) -> None:
    config = changed(
        base, method="fibecfed", tuning="adapter", federation={"rounds": 4}, warm_up={"rounds": 1},
        sharing={"count": 1, "density": 0.5},
    )  # fmt: skip
    watch = Watch()
    result = fibecfed.run(config, tmp_path / "run", callbacks=[watch])
    experiment, state = watch.experiment, result.state
    (gal,) = state.info["layers"]
    checked = 0
    for number, version in state.device_versions.items():
        kept = experiment.site.store.load(number, version)
        assert kept is not None and "difficulty" in kept.memory and (kept.memory["difficulty"] > 0).all()
        for p in experiment.layout:
            if p.layer == 1 - gal:
                rows = kept.memory[f"rows/{p.name}"]
                assert len(rows) == max(1, int(p.shape[0] * 0.5 + 0.5)), p.name
                checked += 1
    assert checked
    device = int(min(p.name for p in (tmp_path / "run" / "adapters").iterdir()))
    own = fibecfed.load(tmp_path / "run", device)
    kept = watch.experiment.site.store.load(device, state.device_versions[device])
    assert kept is not None and kept.local
    assert all(torch.equal(own.model.get_parameter(name), tensor) for name, tensor in kept.local.items())
    assert own.predict(["thank you"])
    check_run(config, tmp_path / "again")


def test_rows_that_are_not_chosen_stay(base: Config) -> None:
    config = changed(
        base, method="fibecfed", tuning="adapter", federation={"rounds": 3, "sampled": 6}, warm_up={"rounds": 0},
        sharing={"count": 1, "density": 0.5}, training={"weight_decay": 0.1},
    )  # fmt: skip
    watch = Watch()
    state = fibecfed.run(config, callbacks=[watch]).state
    start, moved = watch.experiment.start.tensors, 0
    for number, version in state.device_versions.items():
        kept = watch.experiment.site.store.load(number, version)
        assert kept is not None
        for name, tensor in kept.local.items():
            still = torch.ones(len(tensor), dtype=torch.bool)
            still[kept.memory[f"rows/{name}"]] = False
            assert torch.equal(tensor[still], start[name][still]), name
            moved += int(not torch.equal(tensor, start[name]))
    assert moved


def test_everything_switched_off_is_the_adapter_method_bit_for_bit(base: Config) -> None:
    plain = fibecfed.run(base).state
    off = {"curriculum": {"score": "none"}, "sharing": {"layers": "all", "rows": "dense"}}
    same = fibecfed.run(changed(base, method="fibecfed", tuning="adapter", **off)).state
    assert all(torch.equal(same.tensors[name], tensor) for name, tensor in plain.tensors.items())


def test_a_cache_changes_no_bit(base: Config) -> None:
    config = changed(
        base, method="fibecfed", tuning="adapter", warm_up={"rounds": 0},
        sharing={"layers": "last", "count": 1, "rows": "none"},
    )  # fmt: skip
    plain = fibecfed.run(changed(config, training={"cache_mb": 0}))
    cached = fibecfed.run(changed(config, training={"cache_mb": 8}))
    assert cached.summary["operations"] == plain.summary["operations"]
    assert all(torch.equal(cached.state.tensors[name], tensor) for name, tensor in plain.state.tensors.items())


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"method": "fedavg-lora"}, "belong to tuning=adapter"),
        ({"method": "fedavg-lora", "tuning": "adapter"}, "cannot have tuning=adapter"),
        ({"prompt": {"length": 3}}, "'prompt' belong"),
        ({"method": "fibecfed", "tuning": "adapter", "sharing": {"freeze_a": True}}, "freeze_a"),
        ({"method": "fibecfed", "tuning": "adapter", "sharing": {"layers": "reset_loss"}}, "reset_loss"),
        ({"method": "fibecfed", "tuning": "adapter", "sharing": {"count": "functional"}}, "functional"),
        ({"method": "fibecfed", "tuning": "prompt"}, "cannot have tuning=prompt"),
    ],
)
def test_settings_without_effect_are_refused(base: Config, values: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        assemble(changed(base, **values))
