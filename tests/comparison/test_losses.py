"""A comparison of language models: its score is a loss, so the lower one is better wherever two are compared."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from comparison.test_comparison import Silent, in_this_process
from fibecfed import InputError
from fibecfed.callbacks import EarlyStopping
from fibecfed.comparison import Comparison, build_report, load_spec, running, write_log, write_report
from fibecfed.comparison.findings import Findings
from fibecfed.comparison.statistics import reached
from fibecfed.runtime import worst_tenth
from tasks.instructions import folder, records, write

BAD, GOOD = 1.0e-6, 0.02  # learning rates


def spec_content(file: Path, model: str) -> dict[str, Any]:
    return {
        "methods": ["fedavg-lora", {"name": "local-only", "tune": False}],
        "data_sets": [{"name": "asked", "settings": {"data": {"file": str(file), "prompt": "prompt"}}}],
        "seeds": [0, 1],
        "learning_rates": [BAD, GOOD],
        "widenings": 0,
        "target": "final loss of local-only",
        "base": {
            "model": {"name": model},
            "data": {"max_length": 64},
            "federation": {"devices": 4, "sampled": 2, "rounds": 3},
            "training": {"batch_size": 4},
            "lora": {"rank": 2, "alpha": 4},
            "evaluation": {"start": True},
        },
    }


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison that found its model by name in the folder that the environment names."""
    here, model = tmp_path_factory.mktemp("losses"), folder("llama")
    path = here / "spec.yaml"
    path.write_text(yaml.safe_dump(spec_content(write(here / "asked.jsonl", records(60)), model.name)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "run_side_by_side", in_this_process)
        patch.setattr("fibecfed.runs.writing.curves_png", lambda *_: b"")
        patch.setenv("FIBECFED_MODEL_DIR", str(model.parent))
        assert not Comparison.begin(path, here / "out").run(1, None, Silent()).left
    return here / "out"


@pytest.fixture
def found(compared: Path, monkeypatch: pytest.MonkeyPatch) -> Findings:
    monkeypatch.setenv("FIBECFED_MODEL_DIR", str(folder("llama").parent))
    comparison, failed = Comparison.open(compared)
    return Findings(comparison.spec, compared, failed)


def test_the_rate_of_the_lowest_loss_is_chosen(found: Findings) -> None:
    losses = {record.run.rate: record.score("global") for record in found.tuning}
    assert losses[GOOD] < losses[BAD]
    assert [dict(rates) for rates in found.rates.values()] == [{"global": GOOD, "personalized": GOOD}]


def test_gains_ranks_and_controls_follow_the_lower_loss(found: Findings) -> None:
    (setting,) = found.spec.settings()
    means = {name: found.mean(setting, name) for name in ("fedavg-lora", "local-only")}
    better = min(means, key=lambda name: means[name] or 0)
    assert found.ranks("global")[better] == 1
    gain = found.gain("fedavg-lora", "global")
    assert gain is not None and gain.mean == pytest.approx(means["local-only"] - means["fedavg-lora"])  # type: ignore[operator]


@pytest.mark.usefixtures("found")
def test_tables_show_losses_and_the_untrained_model(compared: Path) -> None:
    write_report(build_report(compared))
    table = {t.key: t for t in build_report(compared).tables}["loss"]
    assert [column.name for column in table.columns][4:6] == ["untrained", "global"]
    untrained, trained = (table.rows[0][i] for i in (4, 5))
    assert untrained.mean > trained.mean  # type: ignore[union-attr]
    text = (compared / "report" / "report.md").read_text()
    assert "lower is better" in text and "accurac" not in text.lower().replace("token_accuracy", "")
    stored = json.loads(next((compared / "records").glob("*seed-0.json")).read_text())
    assert "dir" not in stored["config"]["model"] and str(folder("llama").parent) not in json.dumps(stored)


@pytest.mark.usefixtures("found")
def test_a_log_keeps_the_direction(compared: Path, tmp_path: Path) -> None:
    write_log(compared, tmp_path / "log.jsonl")
    line = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[0])
    assert line["metric"] == "loss" and line["lower_is_better"]
    assert "lower is better" in (tmp_path / "log.md").read_text()


def curve(*losses: float) -> list[dict[str, Any]]:
    return [
        {"metric": "loss", "lower_is_better": True, "loss_global": loss, "round": i}
        for i, loss in enumerate(losses, start=1)
    ]


def test_a_target_is_reached_from_above() -> None:
    falling = curve(4.0, 3.0, 3.0, 2.0, 1.0)  # means from the third on: 3.33 2.67 2
    assert reached(falling, 2.7) == falling[3]
    assert reached(falling, 1.9) is None


def test_the_worst_tenth_has_the_highest_losses() -> None:
    losses = np.arange(20.0)
    assert worst_tenth(losses, lower_is_better=True) == 18.5
    assert worst_tenth(losses) == 0.5


def test_patience_waits_for_a_lower_loss() -> None:
    stopping = EarlyStopping(2)
    assert [stopping.stage_done(None, r) for r in curve(4.0, 3.0, 2.0, 2.5, 3.0)] == [*[False] * 4, True]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"target": "final accuracy of local-only"}, "give a loss above 0, or 'final loss of METHOD'"),
        ({"target": -1.0}, "give a loss above 0"),
        ({"data_sets": ["gsm8k", "support"], "target": None}, "The runs have different tasks"),
    ],
)
def test_what_cannot_be_compared_is_said(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump({**spec_content(tmp_path / "none.jsonl", "none"), **change}))
    with pytest.raises(InputError, match=said):
        load_spec(path)
