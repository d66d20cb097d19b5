"""A run and what it began with belong together: data, settings, model. What differs is said, and never gone on with."""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import fibecfed
import tiny
from crash import Crash, CrashAt
from fibecfed import Config, InputError
from fibecfed.cli.app import app
from fibecfed.config import build_config, merge, to_dict
from run_content import content


def with_settings(config: Config, **values: object) -> Config:
    return build_config(merge(to_dict(config), values))


@pytest.fixture(scope="module")
def whole(bert: Path, rows_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with messages.csv, tests.csv and two runs on them: ``ended``, and ``cut`` after its first round."""
    folder = tmp_path_factory.mktemp("belonging")
    rows = pd.read_csv(rows_file)
    rows[:90].to_csv(folder / "messages.csv", index=False)
    rows[90:].to_csv(folder / "tests.csv", index=False)
    config = fibecfed.load_config(
        method="local-only",
        model={"name": str(bert)},
        data={"file": str(folder / "messages.csv"), "test_file": str(folder / "tests.csv"), "max_length": 32},
        federation={"devices": 4, "sampled": 2, "rounds": 2},
        training={"schedule": "constant"},
        lora={"rank": 2, "alpha": 4},
    )
    fibecfed.run(config, folder / "ended")
    with pytest.raises(Crash):
        fibecfed.run(config, folder / "cut", callbacks=[CrashAt(1)])
    return folder


@pytest.fixture
def here(whole: Path, tmp_path: Path) -> Path:
    """A copy whose runs read the copied files."""
    for path in whole.iterdir():
        (shutil.copytree if path.is_dir() else shutil.copy)(path, tmp_path / path.name)
    for name in ("ended", "cut"):
        for path in (tmp_path / name / "config.yaml", tmp_path / name / "fingerprint.json"):
            path.write_text(path.read_text().replace(str(whole), str(tmp_path)))
    return tmp_path


def rewrite(path: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    change(pd.read_csv(path)).to_csv(path, index=False)


def swap(rows: pd.DataFrame) -> pd.DataFrame:
    names = {"billing": "delivery", "delivery": "billing", "praise": "praise"}
    return rows.assign(label=rows["label"].map(names))


CHANGES = {
    "labels swapped": (swap, "has other labels for the same texts"),
    "a label renamed": (lambda rows: rows.replace({"praise": "thanks"}), "gone: 'praise'; new: 'thanks'"),
    "a row less": (lambda rows: rows[1:], "had 90 rows and has 89"),
    "another order": (lambda rows: rows[::-1], "has the same rows in another order"),
    "one text changed": (
        lambda rows: rows.assign(text=["where is it", *rows["text"][1:]]),
        "the training data has other texts",
    ),
}


@pytest.mark.parametrize("case", CHANGES)
def test_resume_says_how_the_data_differs_and_changes_nothing(here: Path, case: str) -> None:
    change, sentence = CHANGES[case]
    rewrite(here / "messages.csv", change)
    if "label" in case:
        rewrite(here / "tests.csv", change)
    before = {path: path.read_bytes() for path in (here / "cut").rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="is not what the run began with") as error:
        fibecfed.resume(here / "cut")
    assert sentence in str(error.value)
    after = {path: path.read_bytes() for path in (here / "cut").rglob("*") if path.is_file()}
    assert {p.name for p in after if after[p] != before.get(p)} <= {".lock"}


def test_evaluate_does_not_judge_on_other_text(here: Path) -> None:
    rewrite(here / "tests.csv", swap)
    with pytest.raises(InputError, match="the test data has other labels for the same texts"):
        fibecfed.evaluate_run(here / "ended")
    assert fibecfed.evaluate_run(here / "ended", "validation")["split"] == "validation"


def test_evaluate_does_not_judge_on_what_was_trained_on(small: Config, rows_file: Path, tmp_path: Path) -> None:
    """The test part is drawn from the file; with more rows the draw is another, and holds training rows."""
    shutil.copy(rows_file, tmp_path / "rows.csv")
    fibecfed.run(with_settings(small, data={"file": str(tmp_path / "rows.csv")}), tmp_path / "run")
    more = pd.DataFrame([{"text": f"my money back {n}", "label": "billing"} for n in range(20)])
    rewrite(tmp_path / "rows.csv", lambda rows: pd.concat([rows, more]))
    with pytest.raises(InputError, match="had 120 rows and has 140"):
        fibecfed.evaluate_run(tmp_path / "run")


def test_files_that_were_moved_or_rewritten_with_the_same_rows_are_the_same_data(here: Path) -> None:
    rows = pd.read_csv(here / "messages.csv").rename(columns={"text": "body"})
    rows.to_json(here / "moved.jsonl", orient="records", lines=True)
    (here / "messages.csv").unlink()
    (here / "tests.csv").rename(here / "moved.csv")
    rows = pd.read_csv(here / "moved.csv").rename(columns={"text": "body"})
    rows.to_csv(here / "moved.csv", index=False)
    moved = {"file": str(here / "moved.jsonl"), "test_file": str(here / "moved.csv"), "text": "body"}
    said: list[str] = []
    fibecfed.resume(here / "cut", changes={"data": moved}, report=said.append)
    assert "data.file was" in said[0]
    assert content(here / "cut")["metrics"] == content(here / "ended")["metrics"]


def edit(run: Path, old: str, new: str) -> None:
    text = (run / "config.yaml").read_text()
    assert old in text
    (run / "config.yaml").write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("learning_rate: 0.001", "learning_rate: 0.1", "training.learning_rate was 0.001, now 0.1"),
        ("seed: 0", "seed: 1", "seed was 0, now 1"),
        ("alpha: 4.0", "alpha: 8.0", "lora.alpha was 4.0, now 8.0"),
        ("rounds: 2", "rounds: 1", "federation.rounds was 2, now 1"),
        ("split: test", "split: validation", "`fibecfed evaluate DIR --split` judges"),
    ],
)
def test_an_edited_configuration_is_refused_by_every_command(here: Path, old: str, new: str, said: str) -> None:
    edit(here / "cut", old, new)
    edit(here / "ended", old, new)
    with pytest.raises(InputError) as error:
        fibecfed.resume(here / "cut")
    assert said in str(error.value)
    assert "What may change: federation.rounds (upwards)" in str(error.value)
    for use in (fibecfed.evaluate_run, fibecfed.load):
        with pytest.raises(InputError, match="is not what this run was trained with") as error:
            use(here / "ended")
        assert said in str(error.value)


def test_predict_notices_that_the_labels_of_an_adapter_were_changed(here: Path) -> None:
    path = here / "ended" / "adapter" / "task.json"
    path.write_text(path.read_text().replace("billing", "bills"))
    with pytest.raises(InputError, match="gone: 'billing'; new: 'bills'"):
        fibecfed.load(here / "ended")


def test_what_may_change_is_gone_on_with_and_said(here: Path) -> None:
    edit(here / "cut", "every: 1", "every: 2")
    said: list[str] = []
    fibecfed.resume(here / "cut", changes={"federation": {"deadline_seconds": 9}}, report=said.append)
    assert said == [
        "From here on, after round 1: federation.deadline_seconds was 3600.0, now 9.0; evaluation.every was 1, now 2."
    ]
    assert fibecfed.load_config(here / "cut" / "config.yaml").federation.deadline_seconds == 9
    summary = json.loads((here / "cut" / "summary.json").read_text())
    assert [(c["key"], c["after_round"]) for c in summary["changed_on_the_way"]] == [
        ("federation.deadline_seconds", 1),
        ("evaluation.every", 1),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fibecfed.resume(here / "cut")  # it has been said once


@pytest.mark.parametrize(("begun", "edited"), [("cut", True), ("ended", False)])
def test_more_rounds_are_those_of_a_run_that_began_with_them(here: Path, begun: str, edited: bool) -> None:
    """Device states are the run's own, from the configuration file as from the command line."""
    config = fibecfed.load_config(here / begun / "config.yaml")
    fibecfed.run(with_settings(config, federation={"rounds": 4}), here / "four")
    more: list[str] = []
    if edited:
        edit(here / begun, "rounds: 2", "rounds: 4")
    else:
        more = ["federation.rounds=4"]
    result = CliRunner().invoke(app, ["run", "--resume", str(here / begun), *more], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    assert "federation.rounds was 2, now 4" in result.output
    mine, theirs = content(here / begun), content(here / "four")
    assert mine["summary"]["lost"]["states"] == []
    for name in theirs:
        if name not in ("summary",) and not name.startswith("devices"):  # those hold the run's mark
            assert mine[name] == theirs[name], name
    assert fibecfed.load_config(here / begun / "config.yaml").federation.rounds == 4


def test_a_run_that_goes_on_is_not_taken_for_ended(here: Path) -> None:
    with pytest.raises(Crash):
        fibecfed.resume(here / "ended", [CrashAt(1)], changes={"federation": {"rounds": 9}}, report=lambda line: None)
    assert not (here / "ended" / "summary.json").exists()


def test_a_setting_that_decides_results_is_refused_on_the_command_line(here: Path) -> None:
    result = CliRunner().invoke(app, ["run", "--resume", str(here / "cut"), "seed=3"], env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert "seed was 0, now 3" in result.output
    assert fibecfed.load_config(here / "cut" / "config.yaml").seed == 0


@pytest.mark.parametrize(("method", "left"), [("fedavg+finetune", "done what it does"), ("ridge-head", "has none")])
def test_more_rounds_are_refused_where_none_can_follow(small: Config, tmp_path: Path, method: str, left: str) -> None:
    fibecfed.run(with_settings(small, method=method), tmp_path / "run")
    with pytest.raises(InputError, match=left):
        fibecfed.resume(tmp_path / "run", changes={"federation": {"rounds": 5}})


def test_what_the_number_of_rounds_settled_stays_settled(small: Config, tmp_path: Path) -> None:
    """slora tunes sparsely for a fifth of the rounds; with more rounds it must not begin to again."""
    fibecfed.run(with_settings(small, method="slora", federation={"rounds": 5}), tmp_path / "run")
    said: list[str] = []
    with pytest.raises(Crash):
        fibecfed.resume(tmp_path / "run", [CrashAt(1)], changes={"federation": {"rounds": 40}}, report=said.append)
    assert "sparse.rounds was null, now 1" in " ".join(said)
    assert fibecfed.load_config(tmp_path / "run" / "config.yaml").sparse.rounds == 1


def test_another_model_of_the_same_shape_is_refused(here: Path) -> None:
    other = tiny.save("bert", here / "bert")
    weights = load_file(other / "model.safetensors")
    save_file({n: t + 0.01 for n, t in weights.items()}, other / "model.safetensors", {"format": "pt"})
    changes = {"model": {"name": str(other)}}
    with pytest.raises(InputError, match="the base model's weights differ"):
        fibecfed.resume(here / "cut", changes=changes)
    assert fibecfed.load_config(here / "cut" / "config.yaml").model.name != str(other)


def test_another_version_is_said(here: Path) -> None:
    path = here / "cut" / "fingerprint.json"
    kept = json.loads(path.read_text())
    kept["found"]["versions"]["torch"] = "0.1"
    path.write_text(json.dumps(kept))
    said: list[str] = []
    fibecfed.resume(here / "cut", report=said.append)
    assert "torch 0.1 then" in said[0]


def test_a_run_of_an_earlier_version_goes_on_and_its_labels_are_compared(here: Path) -> None:
    """It has no fingerprint; its device states are marked with its configuration's text."""
    for name in ("cut", "ended"):
        (here / name / "fingerprint.json").unlink()
    config = fibecfed.load_config(here / "cut" / "config.yaml")
    shutil.rmtree(here / "cut")
    with pytest.raises(Crash):
        fibecfed.run(config, here / "cut", callbacks=[CrashAt(1)])
    (here / "cut" / "fingerprint.json").unlink()
    fibecfed.resume(here / "cut")
    assert json.loads((here / "cut" / "summary.json").read_text())["lost"]["states"] == []
    for name in ("messages.csv", "tests.csv"):
        rewrite(here / name, lambda rows: rows.replace({"praise": "thanks"}))
    with pytest.raises(InputError, match="gone: 'praise'; new: 'thanks'"):
        fibecfed.evaluate_run(here / "ended")


def test_the_fingerprint_holds_no_text(here: Path) -> None:
    kept = (here / "ended" / "fingerprint.json").read_text()
    assert not any(text in kept for text in pd.read_csv(here / "messages.csv")["text"])
