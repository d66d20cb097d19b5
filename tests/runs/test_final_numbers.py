"""The final numbers name whose they are: the saved model's, and the mean that comparisons use."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import fibecfed
from fibecfed import Config
from fibecfed.cli.tables import summary_table
from fibecfed.config import build_config, merge, to_dict
from fibecfed.results import RunDirectory, final_numbers, window


def curve(*accuracies: float) -> list[dict[str, Any]]:
    return [
        {"round": n, "accuracy_global": a, "accuracy_personalized": a / 2, "worst_tenth": a / 4, "f1_global": a,
         "f1_personalized": a, "loss_train": 1.0}
        for n, a in enumerate(accuracies, start=1)
    ]  # fmt: skip


@pytest.mark.parametrize("evaluations", range(1, 60))
def test_the_mean_never_covers_more_than_the_last_quarter(evaluations: int) -> None:
    assert 1 <= window(evaluations) <= 5
    assert window(evaluations) == 1 or window(evaluations) <= evaluations / 4


def test_the_order_of_two_methods_is_that_of_their_ends() -> None:
    """Five rounds: a mean over all of them puts the one that began better first."""
    quick, slow = curve(0.30, 0.50, 0.60, 0.615, 0.76), curve(0.20, 0.45, 0.60, 0.70, 0.775)
    assert sum(r["accuracy_global"] for r in quick) > sum(r["accuracy_global"] for r in slow)
    for numbers in (lambda c: final_numbers(c), lambda c: final_numbers(c)["mean"]):
        assert numbers(quick)["accuracy"]["global"] == 0.76
        assert numbers(slow)["accuracy"]["global"] == 0.775


def test_both_are_there_for_every_metric() -> None:
    found = final_numbers(curve(*[n / 10 for n in range(1, 9)]))
    assert found["accuracy"] == {"global": 0.8, "personalized": 0.4}
    assert found["worst_tenth"] == 0.2
    assert found["f1"]["global"] == 0.8
    assert found["mean"]["accuracy"]["global"] == pytest.approx(0.75)
    assert found["mean"]["worst_tenth"] == pytest.approx(0.1875)
    assert found["mean"]["f1"]["personalized"] == pytest.approx(0.75)
    assert (found["mean"]["evaluations"], found["mean"]["rounds"]) == (2, [7, 8])


def test_table_card_and_summary_speak_of_the_model_that_is_saved(small: Config, tmp_path: Path) -> None:
    config = build_config(merge(to_dict(small), {"federation": {"rounds": 8}}))
    result = fibecfed.run(config, tmp_path / "run")
    saved = fibecfed.evaluate_run(tmp_path / "run")
    assert result.summary["accuracy"]["global"] == saved["global"]["accuracy"]
    assert result.summary["worst_tenth"] == saved["worst_tenth"]
    out = io.StringIO()
    Console(file=out, width=120).print(summary_table(result.summary))
    card = (tmp_path / "run" / "README.md").read_text()
    mean = sum(r["accuracy_global"] for r in result.metrics[-2:]) / 2
    line = next(row for row in out.getvalue().splitlines() if "saved model: accuracy of the global model" in row)
    assert f"{saved['global']['accuracy']:.4f}" in line
    line = next(row for row in out.getvalue().splitlines() if "mean of the last 2 evaluations: accuracy of" in row)
    assert f"{mean:.4f}" in line
    assert "| test, saved model | test, mean of the last 2 evaluations |" in card
    numbers = f"{saved['global']['accuracy']:.4f} | {mean:.4f}"
    assert f"| accuracy of the global model | {numbers} |" in card


def test_what_is_no_model_is_not_called_one(small: Config, tmp_path: Path) -> None:
    config = build_config(merge(to_dict(small), {"method": "local-only"}))
    fibecfed.run(config, tmp_path / "run")
    assert (
        "accuracy of the devices' models on all examples, in the mean" in (tmp_path / "run" / "README.md").read_text()
    )


def test_a_summary_of_an_earlier_version_is_read_as_the_saved_models(small: Config, tmp_path: Path) -> None:
    summary = fibecfed.run(small, tmp_path / "run").summary
    path = tmp_path / "run" / "summary.json"
    old = json.loads(path.read_text())
    del old["mean"]
    old["accuracy"] = {"global": 0.123, "personalized": 0.123}
    path.write_text(json.dumps(old))
    assert RunDirectory.open(tmp_path / "run").summary() == json.loads(json.dumps(summary))
