"""Wrong inputs a user really gives: one sentence, the right exit code, no traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fibecfed.cli.app import app


def fibecfed(*arguments: str) -> tuple[int, str]:
    """Exit code and all that was printed, with line breaks made spaces."""
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, " ".join(result.output.split())


@pytest.fixture
def base(bert: Path, rows_file: Path, tmp_path: Path) -> list[str]:
    return ["run", "--out", str(tmp_path / "out"), f"model.name={bert}", f"data.file={rows_file}"]


def test_the_base_is_right(base: list[str]) -> None:
    code, output = fibecfed(*base, "federation.rounds=1", "federation.devices=4", "federation.sampled=2")
    assert code == 0, output
    assert "Results in" in output


WRONG = {
    "unknown key": (["federation.round=3"], "Unknown key 'federation.round'. Did you mean 'federation.rounds'?"),
    "right key, wrong section": (["training.rank=3"], "Did you mean 'lora.rank'?"),
    "unknown method": (
        ["method=fedavg-lra"],
        "Unknown method 'fedavg-lra' (key 'method'). Did you mean 'fedavg-lora'?",
    ),
    "unknown data set": (
        ["data.file=null", "data.name=trek"],
        "Unknown data set 'trek' (data.name). Did you mean 'trec'",
    ),
    "unknown model": (["model.name=no/such-model"], "Model 'no/such-model' is neither a folder nor in the local"),
    "unknown column": (["data.label=labell"], "has no column 'labell' (data.label); its columns are: text, label."),
    "missing file": (["data.file=nowhere.csv"], "Data file 'nowhere.csv' does not exist."),
    "negative alpha": (["data.partition.alpha=-1"], "Key 'data.partition.alpha' cannot be -1"),
    "more sampled than devices": (
        ["federation.devices=3", "federation.sampled=5"],
        "federation.sampled is 5 but there",
    ),
    "no number": (["federation.rounds=many"], "Key 'federation.rounds' cannot be 'many'"),
    "not KEY=VALUE": (["config.yaml", "other.yaml"], "Only one configuration file can be given"),
    "missing configuration": (["config.yaml"], "Configuration file 'config.yaml' does not exist."),
    "more devices than examples": (["federation.devices=500"], "federation.devices=500"),
    "unknown target": (["lora.targets=[qury]"], "lora.targets names ['qury']; the model's linear maps are"),
    "no such hardware": (["runtime.device=mps"], "runtime.device=mps, but torch finds no such device here"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_explained_with_exit_code_two(base: list[str], case: str, tmp_path: Path) -> None:
    extra, sentence = WRONG[case]
    code, output = fibecfed(*base, *extra)
    assert code == 2, output
    assert sentence in output
    assert output.count("Error:") == 1
    assert "Traceback" not in output
    assert not (tmp_path / "out").exists()


def test_empty_text_names_file_and_row(base: list[str], tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text,label\ngood,a\n  ,b\nbad,b\n")
    code, output = fibecfed(*base, f"data.file={path}")
    assert code == 2
    assert f"'{path}'" in output
    assert "empty" in output


def test_a_label_the_training_data_lacks_names_file_and_row(base: list[str], tmp_path: Path) -> None:
    path = tmp_path / "test.csv"
    path.write_text("text,label\ngood,praise\nbad,anger\n")
    code, output = fibecfed(*base, f"data.test_file={path}")
    assert code == 2
    assert f"'{path}'" in output
    assert "'anger'" in output
    assert "billing, delivery, praise" in output


def test_a_loss_that_becomes_nan_fails_the_run_with_exit_code_one(base: list[str]) -> None:
    code, output = fibecfed(
        *base, "training.learning_rate=1e38", "training.max_grad_norm=null", "training.optimizer=sgd",
        "federation.devices=4", "federation.sampled=4",
    )  # fmt: skip
    assert code == 1, output
    assert "the loss of device" in output
    assert "lower training.learning_rate" in output
    assert "fibecfed run --resume" in output
    assert "Traceback" not in output


def test_an_existing_directory_needs_force(base: list[str], tmp_path: Path) -> None:
    few = ["federation.rounds=1", "federation.devices=5"]
    assert fibecfed(*base, *few)[0] == 0
    code, output = fibecfed(*base, *few)
    assert code == 2
    assert "already exists" in output
    assert fibecfed(*base, *few, "--force")[0] == 0


@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_a_directory_that_is_no_run(command: str, tmp_path: Path) -> None:
    code, output = fibecfed(command, str(tmp_path), *(["a text"] if command == "predict" else []))
    assert code == 2
    assert "is not the directory of a run" in output


def test_resume_takes_nothing_else(base: list[str], tmp_path: Path) -> None:
    code, output = fibecfed("run", "--resume", str(tmp_path), "config.yaml")
    assert code == 2
    assert "--resume takes everything from its directory" in output


def test_out_is_asked_for(base: list[str]) -> None:
    code, output = fibecfed("run", *base[3:])
    assert code == 2
    assert "--out DIR" in output


def test_the_real_process_prints_no_traceback(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fibecfed", "run", "--out", str(tmp_path / "o"), "seeed=3"],
        capture_output=True, text=True, timeout=120, env=os.environ | {"COLUMNS": "200"},
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.strip() == "Error: Unknown key 'seeed'. Did you mean 'seed'?"
