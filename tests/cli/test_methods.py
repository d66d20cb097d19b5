"""`fibecfed methods` and `--dry-run`: what a round of each method takes."""

import csv
import dataclasses
import io
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

import fibecfed
from fibecfed.cli.app import app
from fibecfed.cli.methods_command import Rounds, show_methods
from fibecfed.config import Config
from fibecfed.methods import METHODS
from fibecfed.runs.estimate import Round, estimate, ordinary_round
from fibecfed.runtime import assemble
from tasks import instructions


@pytest.fixture
def one_text(small: Config) -> Config:
    return dataclasses.replace(small, federation=dataclasses.replace(small.federation, rounds=6))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_can_be_estimated(method: str, one_text: Config) -> None:
    found = estimate(assemble(dataclasses.replace(one_text, method=method)))
    assert found.seconds > 0
    assert (found.round.job is None) == (found.round.bytes_down == 0)
    if found.round.job is not None:
        assert 0 < found.round.parameters_trained <= sum(t.numel() for t in found.round.job.tensors.values())


@pytest.mark.parametrize("loss", ["cross_entropy", "prior_corrected"])
def test_an_estimated_round_is_the_real_one(loss: str, small: Config) -> None:
    config = dataclasses.replace(small, training=dataclasses.replace(small.training, loss=loss))
    found = ordinary_round(assemble(config))
    result = fibecfed.run(config)
    train = result.summary["stages"]["train"]
    # What a message says beside its tensors differs: the run's name, the costs of a reply.
    messages = config.federation.sampled * config.federation.rounds
    assert train["bytes_up"] / messages == pytest.approx(found.bytes_up, abs=200)
    assert train["bytes_down"] / messages == pytest.approx(found.bytes_down, abs=200)
    assert found.parameters_trained == found.parameters_sent == assemble(config).layout.size


def fibecfed_methods(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["methods", *arguments], env={"COLUMNS": "300"})
    return result.exit_code, result.output


def table_of(output: str) -> dict[str, dict[str, str]]:
    """What a pipe gets, by method."""
    return {row["method"]: row for row in csv.DictReader(io.StringIO(output), delimiter="\t")}


def test_the_list_needs_no_model_and_is_tsv_in_a_pipe() -> None:
    result = CliRunner().invoke(app, ["methods"], env={"COLUMNS": "40"})
    assert result.exit_code == 0
    rows = table_of(result.stdout)
    assert list(rows) == list(METHODS)
    for name, method in METHODS.items():
        assert rows[name] == {
            "method": name, "source": method.paper, "trains": method.trains, "sends": method.sends
        }  # fmt: skip
    assert "fibecfed methods model.name=minilm" in result.stderr


def on_a_terminal(width: int, rounds: Rounds | None = None) -> list[str]:
    written = io.StringIO()
    screen = Console(file=written, force_terminal=True, width=width, color_system=None, markup=False)
    show_methods(rounds, "a note", screen, screen)
    return written.getvalue().splitlines()


def test_a_terminal_of_80_columns_shows_paragraphs_and_a_wide_one_a_table() -> None:
    narrow, wide = on_a_terminal(80), on_a_terminal(400)
    assert max(map(len, narrow)) <= 80
    for name, method in METHODS.items():
        (at,) = [i for i, line in enumerate(narrow) if line.startswith(f"{name}  ")]
        assert f"    trains {method.trains.split()[0]}" in "\n".join(narrow[at : at + 3])
        (line,) = [line for line in wide if line.startswith(f"│ {name} ")]
        assert method.paper in line and method.sends in line


def test_a_narrow_terminal_says_what_a_round_takes_too() -> None:
    rounds: dict[str, Round | str] = dict.fromkeys(METHODS, Round(1200, 1300, 1400, 1500))
    rounds["ridge-head"] = "it needs [model.head=pooled]"
    text = " ".join(" ".join(on_a_terminal(80, rounds)).split())
    assert "parameters trained 1,200; parameters sent 1,300; bytes down 1,400; bytes up 1,500" in text
    assert "cannot be had: it needs [model.head=pooled]" in text


def test_with_a_model_it_says_what_a_round_takes(small: Config) -> None:
    result = CliRunner().invoke(app, ["methods",
        f"model.name={small.model.name}", f"data.file={small.data.file}", "model.head=native", "lora.rank=2",
        "federation.devices=3", "federation.sampled=1",
    ])  # fmt: skip
    assert result.exit_code == 0, result.output
    rows = table_of(result.stdout)
    config = dataclasses.replace(
        small, model=dataclasses.replace(small.model, head="native"), lora=dataclasses.replace(small.lora, alpha=16.0)
    )
    assert rows["fedavg-lora"]["parameters_trained"] == str(assemble(config).layout.size)
    assert rows["fedavg-lora"]["refused"] == ""
    assert "needs model.head=pooled" in rows["ridge-head"]["refused"]


@pytest.mark.parametrize("named", ["task", "file"])
def test_which_methods_run_for_a_language_model_is_known_without_model_and_data(named: str, tmp_path: Path) -> None:
    run = tmp_path / "run.yaml"
    run.write_text("data: {file: nowhere.jsonl, prompt: question}\nmodel: {name: nowhere}\nproximal: {mu: 0.1}\n")
    result = CliRunner().invoke(app, ["methods", "task.kind=causal-lm" if named == "task" else str(run)])
    assert result.exit_code == 0, result.output
    assert result.stderr.startswith("Parameters and bytes a round were not counted: ")
    rows = table_of(result.stdout)
    assert list(rows) == list(METHODS) and "bytes_up" not in rows["fibecfed"]
    assert rows["fedprox"]["refused"] == ""
    assert rows["ridge-head"]["refused"] == "It is about a trained head, and that of a language model is frozen."
    assert rows["device-majority"]["refused"] == "It needs a fixed set of answers, which responses are not."
    assert ("does not use proximal.mu" in rows["fedavg-lora"]["refused"]) == (named == "file")


def test_a_language_model_without_weights_is_counted(tmp_path: Path) -> None:
    asked = instructions.write(tmp_path / "asked.jsonl", instructions.records(40))
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((instructions.folder("llama") / name).read_bytes())
    result = CliRunner().invoke(app, ["methods", f"data.file={asked}", f"model.name={tmp_path}", "lora.rank=2"])
    assert result.exit_code == 0, result.output
    rows = table_of(result.stdout)
    assert int(rows["fibecfed"]["parameters_trained"]) <= int(rows["fedavg-lora"]["parameters_trained"])
    assert all(row["bytes_up"] or row["refused"].startswith("It ") for row in rows.values())


def test_a_model_that_is_not_there_is_an_error() -> None:
    code, output = fibecfed_methods("model.name=no/such")
    assert code == 2
    assert "Model 'no/such' is neither a folder" in " ".join(output.split())
