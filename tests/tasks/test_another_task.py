"""A second task, all of it in ``text_length.py``, runs the methods end to end: nothing else knows of it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import fibecfed
import tiny
from fibecfed import InputError, RunResult, load_config
from fibecfed.cli.app import app
from fibecfed.config import Config
from fibecfed.runtime import assemble
from fibecfed.tasks import TASKS
from tasks.text_length import SCALE, TextLength

MESSAGES = Path(__file__).parents[1] / "golden" / "messages.csv"
METHODS: dict[str, dict[str, Any]] = {
    "fedavg-lora": {},
    "fibecfed": {"warm_up": {"accuracy": 1.0}, "sharing": {"count": 1}},
}


def settings(method: str, **others: Any) -> Config:
    return load_config(
        method=method,
        task={"kind": "text-length"},
        data={"file": str(MESSAGES), "max_length": 32},
        federation={"devices": 4, "sampled": 2, "rounds": 4},
        model={"name": str(tiny.folder("bert")), **others.pop("model", {})},
        training={"learning_rate": 0.01, "batch_size": 4, **others.pop("training", {})},
        lora={"rank": 2, "alpha": 4},
        **others,
    )


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TASKS, TextLength.kind, TextLength)
        yield


@pytest.fixture(scope="module", params=METHODS)
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    out = tmp_path_factory.mktemp("another-task") / request.param
    return fibecfed.run(settings(request.param, **METHODS[request.param]), out)


def test_it_learns_and_says_so_by_its_own_metric(finished: RunResult) -> None:
    first, last = finished.metrics[0], finished.metrics[-1]
    assert last["metric"] == finished.summary["metric"] == "closeness"
    assert last["metric_global"] == last["closeness_global"] > first["metric_global"]
    assert last["metric_global"] == pytest.approx(1 / (1 + last["loss_global"]))
    assert finished.summary["closeness"]["personalized"] == last["metric_personalized"]
    assert not [key for key in last if "accuracy" in key] and "accuracy" not in finished.summary
    assert "closeness: global" in repr(finished)


def test_its_run_directory_is_whole(finished: RunResult) -> None:
    assert finished.directory is not None
    task = json.loads((finished.directory / "adapter" / "task.json").read_text())
    assert (task["task"], task["labels"]) == ("text-length", [])
    partition = json.loads((finished.directory / "partition.json").read_text())
    assert partition["labels"] == [] and np.shape(partition["train"]) == (4, 1)
    card = (finished.directory / "README.md").read_text()
    assert "closeness of the global model" in card and "accuracy" not in card and "abels" not in card
    again = fibecfed.evaluate_run(finished.directory)
    assert again["global"]["closeness"] == finished.summary["closeness"]["global"]


def test_it_predicts_numbers(finished: RunResult, tmp_path: Path) -> None:
    assert finished.directory is not None
    model = fibecfed.load(finished.directory)
    assert model.labels == () and np.shape(model.predict(["thank you", "a lid"])) == (2, 1)
    assert CliRunner().invoke(app, ["predict", str(finished.directory), "thank you"]).exit_code == 0
    out = tmp_path / "predicted.csv"
    written = CliRunner().invoke(app, ["predict", str(finished.directory), "--file", str(MESSAGES), "--out", str(out)])
    assert written.exit_code == 0, written.output
    assert out.read_text().splitlines()[0] == "row,text,outputs,error" and "ccuracy" not in written.output


def test_its_card_runs(finished: RunResult, monkeypatch: pytest.MonkeyPatch) -> None:
    assert finished.directory is not None
    card = (finished.directory / "README.md").read_text()
    monkeypatch.chdir(finished.directory)
    names: dict[str, Any] = {}
    exec(card.split("```python\n")[1].split("```")[0], names)
    assert names["logits"][0].tolist() == pytest.approx(fibecfed.load(".").predict(["a text"])[0], abs=1e-5)


@pytest.mark.parametrize("finished", ["fibecfed"], indirect=True)
def test_a_warm_up_asks_how_well_the_task_judges(finished: RunResult) -> None:
    assert finished.directory is not None
    decided = json.loads((finished.directory / "method.json").read_text())
    assert 0 < decided["warm_up_rounds"] == len(decided["warm_up_closeness"]) < 4
    assert all(0 < judged < 1 for judged in decided["warm_up_closeness"])
    assert decided["layers"] is not None and decided["difficulty"]["group_share"] in (None, 0)


def test_targets_are_the_tasks_own() -> None:
    experiment = assemble(settings("fedavg-lora"))
    data = experiment.data
    assert data.validation.targets == pytest.approx([len(text) / SCALE for text in data.validation_rows.texts])
    assert data.validation.targets.dtype == np.float32 and not data.train.groups.any()


@pytest.mark.parametrize(
    ("others", "said"),
    [
        ({"model": {"head_init": "ridge"}}, "task.kind=text-length has no closed-form head"),
        (
            {"training": {"loss": "prior_corrected"}},
            "text-length has no proportions .* leave training.loss as it is",
        ),
        ({"task": {"kind": "masked-lm"}}, "Unknown task 'masked-lm' .* no masked"),
        ({"task": {"kind": "text-lenght"}}, "Unknown task 'text-lenght' .* 'text-length'"),
    ],
)
def test_what_a_task_lacks_is_said(others: dict[str, Any], said: str) -> None:
    task = others.pop("task", None)
    config = settings("fedavg-lora", **others)
    if task is not None:
        config = load_config(task=task, data={"file": str(MESSAGES)}, model={"name": str(tiny.folder("bert"))})
    with pytest.raises(InputError, match=said):
        fibecfed.run(config)
