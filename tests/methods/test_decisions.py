"""What the method decided is saved, and what it says is so."""

import json
from pathlib import Path

import numpy as np
import pytest

import fibecfed
from fibecfed import Config
from fibecfed.config import build_config, merge, to_dict
from fibecfed.curriculum.clean_part import Suspicion


@pytest.fixture
def config(small: Config) -> Config:
    values = {"method": "fibecfed", "federation": {"rounds": 5}, "warm_up": {"rounds": 1}, "sharing": {"count": 1}}
    return build_config(merge(to_dict(small), values))


@pytest.mark.drawn
def test_decisions_are_saved_and_true(config: Config, tmp_path: Path) -> None:
    result = fibecfed.run(config, tmp_path / "run")
    decided = json.loads((tmp_path / "run" / "method.json").read_text())
    assert (tmp_path / "run" / "method.png").read_bytes().startswith(b"\x89PNG")
    assert decided["layers"] == result.state.info["layers"]
    assert decided["layers"] == [max(range(2), key=decided["layer_scores"].__getitem__)]
    assert decided["count_reason"] == "sharing.count=1"
    assert decided["warm_up_rounds"] == 1
    # T = 4 rounds after the warm-up, all data from t = 3.2 on: 0.6 + 0.4 t / 3.2
    assert decided["prefix"] == pytest.approx([1.0, 0.6, 0.725, 0.85, 0.975])
    assert set(decided["density"]) == {str(layer) for layer in range(2)} - {str(decided["layers"][0])}
    assert all(0.4 < density < 0.7 for density in decided["density"].values())
    assert sum(decided["difficulty"]["histogram"]["counts"]) <= decided["difficulty"]["examples"]
    assert -1 <= decided["rank_stability"] <= 1


def test_automatic_caps_are_each_devices_own(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Tiny models show no noise, so half of whatever a device has is called noisy.
    found = Suspicion(1, 2, np.zeros(0, bool))
    monkeypatch.setattr(
        "fibecfed.methods.fibecfed_parts.confidence.suspicion",
        lambda chances, *_: found._replace(habitual=np.zeros(len(chances), bool)),
    )
    values = merge(to_dict(config), {"curriculum": {"cap": "auto"}})
    result = fibecfed.run(build_config(values), tmp_path / "run")
    decided = json.loads((tmp_path / "run" / "method.json").read_text())
    assert decided["caps"].keys() == {str(device) for device in result.state.device_versions}
    assert all(cap == pytest.approx(0.5, abs=0.05) for cap in decided["caps"].values())
    assert decided["wrong_share"] == 0.5
    fixed = fibecfed.run(build_config(merge(to_dict(config), {"curriculum": {"cap": 0.5}})))
    trained = [[r["examples_trained"] for r in run.metrics] for run in (result, fixed)]
    assert trained[0] == trained[1]


def test_a_difficulty_that_is_the_label_is_warned_of(config: Config, tmp_path: Path) -> None:
    from fibecfed.curriculum import GROUP_SHARE_WARNING

    fibecfed.run(config, tmp_path / "run")
    decided = json.loads((tmp_path / "run" / "method.json").read_text())
    warned = bool(decided["warnings"])
    assert warned == (decided["difficulty"]["group_share"] > GROUP_SHARE_WARNING)


def test_the_warm_up_ends_when_the_model_can_judge_or_time_is_up(config: Config) -> None:
    patient = {"warm_up": {"rounds": None, "accuracy": 1.0, "most": 0.6}}
    state = fibecfed.run(build_config(merge(to_dict(config), patient))).state
    assert state.info["warm_up"] == 3  # 60 % of 5 rounds
    assert len(state.info["warm_up_accuracy"]) == 3
    # with C = 3 labels a tenth of the way from chance to 1 is 0.4
    easy = {"warm_up": {"rounds": None, "accuracy": 0.1, "most": 0.6}}
    state = fibecfed.run(build_config(merge(to_dict(config), easy))).state
    reached = [a >= 0.4 for a in state.info["warm_up_accuracy"]]
    assert state.info["warm_up"] == (reached.index(True) + 1 if True in reached else 3)


def test_fedavg_decides_nothing(small: Config, tmp_path: Path) -> None:
    fibecfed.run(small, tmp_path / "run")
    assert not (tmp_path / "run" / "method.json").exists()
