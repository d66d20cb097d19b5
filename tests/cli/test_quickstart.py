"""`fibecfed quickstart`: what it runs, keeps, goes on with and prints, on a tiny model and once for real."""

import importlib.util
import io
import json
import os
import re
import shlex
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

import forking
from fibecfed import InputError
from fibecfed.cli.app import app
from fibecfed.cli.quickstart_command import QuickstartProgress, results_table
from fibecfed.commands import extra_install
from fibecfed.config import to_dict, to_yaml
from fibecfed.methods import method_class
from fibecfed.quickstart import METHODS, Findings, example_message, plan
from fibecfed.side_by_side import WantedRun
from run_content import content

FEW = ["federation.rounds=6", "evaluation.every=1", "data.train_examples=48", "training.batch_size=8"]


def fibecfed(*arguments: str) -> tuple[int, str]:
    """Exit code and all that was printed, with line breaks made spaces."""
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, " ".join(result.output.split())


def process(*arguments: str) -> forking.Popen:
    return forking.Popen(
        ["-m", "fibecfed", "quickstart", *arguments], stdout=forking.PIPE, stderr=forking.PIPE,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "COLUMNS": "120"},
    )  # fmt: skip


def finished(*arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of the command, in this process; its runs have their own."""
    result = CliRunner().invoke(app, ["quickstart", *arguments], env={"HF_HUB_OFFLINE": "1", "COLUMNS": "120"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def summary(method: str, accuracy: float = 0.75, **over: Any) -> dict[str, Any]:
    return {
        "method": method,
        "accuracy": {"global": accuracy, "personalized": 0.8},
        "worst_tenth": 0.5,
        "bytes": {"up": 1_500_000, "down": 2_540_000},
        "seconds": {"cpu": 12.4, "simulated": 3.6, "wall": 99.0},
        "data": {"held_out_examples": 240},
        "versions": {"fibecfed": "0"},
        "hardware": {"processor": "abacus", "cores": 2},
        "git_commit": "abc",
    } | over


def found(tmp_path: Path, *summaries: dict[str, Any], overrides: tuple[str, ...] = ()) -> Findings:
    return Findings(plan(tmp_path / "out", overrides), summaries)


# The plan


def test_every_method_gets_the_same_settings(tmp_path: Path) -> None:
    runs = plan(tmp_path, ["training.local_steps=3", "seed=5"]).runs
    assert [t.name for t in runs] == list(METHODS)
    first = to_dict(runs[0].config)
    assert (first["training"]["local_steps"], first["seed"]) == (3, 5)
    for wanted in runs:
        assert to_dict(wanted.config) == first | {"method": wanted.name}
        assert wanted.directory == tmp_path / wanted.name


def test_the_last_round_is_evaluated_and_only_it(tmp_path: Path) -> None:
    config = plan(tmp_path).config
    assert config.evaluation.every == config.federation.rounds


def test_the_recipe_is_the_six_companies(tmp_path: Path) -> None:
    config = plan(tmp_path).config
    assert (config.data.name, config.data.partition.kind, config.federation.devices) == ("support", "column", 6)
    assert config.evaluation.split == "test"
    assert config.model.name == "minilm"


def write_run(directory: Path, wanted: WantedRun, ended: bool) -> None:
    directory.mkdir(parents=True)
    (directory / "config.yaml").write_text(to_yaml(wanted.config))
    if ended:
        (directory / "summary.json").write_text("{}")


def test_earlier_runs_of_the_same_settings_are_kept(tmp_path: Path) -> None:
    first, second, _ = plan(tmp_path).runs[:3]
    write_run(first.directory, first, ended=True)
    write_run(second.directory, second, ended=False)
    now = plan(tmp_path).runs
    assert [(t.done, t.begun) for t in now[:3]] == [(True, True), (False, True), (False, False)]
    assert not any(t.done or t.begun for t in plan(tmp_path, force=True).runs)


@pytest.mark.parametrize("damage", [None, "federation: {rouns: 3}", "- 3"])
def test_a_run_with_other_settings_needs_force(tmp_path: Path, damage: str | None) -> None:
    wanted = plan(tmp_path).runs[1]
    write_run(wanted.directory, wanted, ended=True)
    if damage:
        (wanted.directory / "config.yaml").write_text(damage)
    with pytest.raises(InputError, match=rf"'.*{METHODS[1]}' holds a run with other settings; use --force"):
        plan(tmp_path, [] if damage else ["seed=7"])
    assert not plan(tmp_path, ["seed=7"], force=True).runs[1].done


def test_the_folder_of_the_data_is_no_other_setting(tmp_path: Path) -> None:
    wanted = plan(tmp_path).runs[0]
    write_run(wanted.directory, wanted, ended=True)
    assert plan(tmp_path, ["data.dir=elsewhere"]).runs[0].done


# Wrong input: exit code 2, one sentence, nothing written

WRONG = {
    "unknown key": (["federation.round=3"], "Unknown key 'federation.round'"),
    "a file": (["mine.yaml"], "Override 'mine.yaml' must have the form KEY=VALUE"),
    "a method": (["method=slora"], "for one method use: fibecfed run method=slora --out DIR"),
    "unknown data set": (["data.name=trek"], "Unknown data set 'trek'"),
    "unknown model": (["model.name=no/such"], "Model 'no/such' is neither a folder"),
    "too few companies": (["federation.devices=7", "federation.sampled=7"], "federation.devices"),
    "no jobs": (["--jobs", "0"], "--jobs"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_explained_before_anything_is_written(case: str, tmp_path: Path) -> None:
    extra, sentence = WRONG[case]
    code, output = fibecfed("quickstart", "--out", str(tmp_path / "out"), *extra)
    assert code == 2, output
    assert sentence in output
    assert "Traceback" not in output
    assert not (tmp_path / "out").exists()


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda n, *r: None if n.startswith("gt_all") else real(n, *r))
    code, output = fibecfed("quickstart", "--out", str(tmp_path / "out"))
    assert code == 2
    assert extra_install("minilm") in output
    assert not (tmp_path / "out").exists()


def test_out_may_not_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    code, output = fibecfed("quickstart", "--out", str(tmp_path / "out"))
    assert code == 2
    assert "is a file; --out must name a directory" in output
    assert (tmp_path / "out").read_text() == "mine"


# The table


def test_a_row_by_hand(tmp_path: Path) -> None:
    (row,) = found(tmp_path, summary("fedavg-lora")).rows
    assert row.numbers() == ("0.750", "0.800", "0.500", "4.0", "12", "4")
    assert row.trains == method_class("fedavg-lora").trains


def test_the_error_of_an_accuracy_by_hand(tmp_path: Path) -> None:
    # sqrt(0.75 * 0.25 / 240) = 0.02795
    reading = " ".join(found(tmp_path, summary("local-only", 0.5), summary("fedavg-lora", 0.75)).reading())
    assert "known to about 2.8 points" in reading
    assert "all 240 test examples" in reading


def test_only_methods_of_the_table_are_explained(tmp_path: Path) -> None:
    alone = " ".join(found(tmp_path, summary("fedavg-lora")).reading())
    assert "centralized-lora" not in alone
    assert "local-only" not in alone
    assert "fedavg+prior" not in alone
    both = " ".join(found(tmp_path, summary("fedavg-lora"), summary("local-only")).reading())
    assert "local-only is what federation has to beat" in both


def test_the_worst_device_is_a_tenth_of_many(tmp_path: Path) -> None:
    few = found(tmp_path, summary("fedavg-lora"))
    many = found(tmp_path, summary("fedavg-lora"), overrides=("federation.devices=20", "data.partition.kind=iid"))
    assert "worst device" in few.markdown("a text")
    assert "worst tenth of devices" in many.markdown("a text")


def test_the_markdown_has_a_row_a_method_and_where_it_ran(tmp_path: Path) -> None:
    text = found(tmp_path, summary("fedavg-lora"), summary("local-only", git_commit="def")).markdown("it's late")
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == 4
    assert len({line.count(" | ") for line in rows}) == 1
    assert "| 0.750 | 0.800 | 0.500 | 4.0 | 12 | 4 |" in rows[2]
    assert "commit abc / def" in text
    assert "abacus, 2 cores" in text
    assert f"predict {tmp_path / 'out' / 'fedavg-lora'} {shlex.quote(chr(39).join(('it', 's late')))}" in text


def test_the_table_fits_eighty_columns(tmp_path: Path) -> None:
    file = io.StringIO()
    everything = found(tmp_path, *(summary(m) for m in METHODS))
    Console(file=file, width=80).print(results_table(everything))
    for method in METHODS:
        assert re.search(rf"{re.escape(method)}\s.*0\.750.*0\.800.*0\.500.*4\.0.*12.*4", file.getvalue())


def test_the_example_message_needs_no_escaping() -> None:
    assert example_message(["I'm late and I can't find the van that you promised me", "short", "x" * 58]) == "x" * 58
    assert example_message(["it's"]) == "where is my parcel?"


def progress(tmp_path: Path, terminal: bool) -> str:
    file = io.StringIO()
    planned = plan(tmp_path / "out")
    first, second = planned.runs[:2]
    write_run(second.directory, second, ended=True)
    shown = QuickstartProgress(Console(file=file, force_terminal=terminal, width=120), plan(tmp_path / "out"))
    shown.progressed(first, {"round": 0, "rounds": 4, "loss": None, "score": None, "megabytes": 0.0})
    shown.progressed(first, {"round": 3, "rounds": 4, "loss": 1.5, "score": 0.25, "megabytes": 8.1})
    shown.ended(first, "too hot")
    shown.stop()
    return file.getvalue()


def test_progress_is_plain_lines_where_there_is_no_terminal(tmp_path: Path) -> None:
    assert progress(tmp_path, terminal=False).splitlines() == [
        f"{METHODS[1]}: done before",
        f"{METHODS[0]}: round 0/4, started",
        f"{METHODS[0]}: round 3/4, loss 1.500, global 0.250, 8.1 MB",
        f"{METHODS[0]}: failed",
    ]


def test_progress_is_a_live_line_a_method_on_a_terminal(tmp_path: Path) -> None:
    text = progress(tmp_path, terminal=True)
    assert "\x1b[" in text
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).splitlines()[-len(METHODS) :]
    assert re.search(rf"{METHODS[0]} .* round 3/4 .* failed", last[0])
    assert re.search(rf"{METHODS[1]} .* round 4/4 .* done before", last[1])


# The real command, on a tiny model


@pytest.fixture(scope="module")
def arguments(bert: Path) -> list[str]:
    return [f"model.name={bert}", *FEW]


@pytest.fixture(scope="module")
def whole(arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("quickstart") / "a folder"
    code, output, errors = finished("--out", str(out), *arguments)
    assert code == 0, output + errors
    assert errors == ""
    return out, output


@pytest.mark.slow
def test_it_ends_with_the_table_and_what_to_do_next(whole: tuple[Path, str]) -> None:
    out, output = whole
    written = json.loads((out / "quickstart.json").read_text())
    assert [r["method"] for r in written["rows"]] == list(METHODS)
    markdown = (out / "quickstart.md").read_text()
    for row in written["rows"]:
        run = json.loads((out / row["method"] / "summary.json").read_text())
        assert row["accuracy_global"] == run["accuracy"]["global"]
        assert row["megabytes"] == pytest.approx((run["bytes"]["up"] + run["bytes"]["down"]) / 1e6)
        assert re.search(rf"│ {row['method']} .*{row['accuracy_global']:.3f}", output)
        assert f"| {row['method']} |" in markdown
    may_leave_some_out = "fibecfed-plus"
    trained = {m: s["examples_trained"] for m, s in written["runs"].items() if m != may_leave_some_out}
    assert len(set(trained.values())) == 1, trained
    assert written["seed"] == 0
    assert {"versions", "hardware", "git_commit"} <= written.keys()
    assert "How to read it" in output
    assert not list(out.glob("*.log"))


@pytest.mark.slow
def test_the_commands_it_prints_work(whole: tuple[Path, str]) -> None:
    out, output = whole
    commands = [line.strip() for line in output.splitlines() if re.match("  fibecfed (predict|run|methods)", line)]
    predict, own, methods, longer = commands
    assert own.startswith("fibecfed run data.file=messages.csv ")
    code, printed = fibecfed(*shlex.split(predict)[1:])
    assert code == 0, printed
    assert json.loads(printed)["label"]
    code, printed = fibecfed(*shlex.split(methods)[1:])
    assert code == 0
    assert all(m in printed for m in METHODS)
    code, printed = fibecfed(*shlex.split(longer)[1:])
    assert code == 0, printed
    assert "Dry run" in printed
    assert yaml.safe_load((out / "recipe.yaml").read_text())["method"] == METHODS[0]


@pytest.mark.slow
def test_its_report_written_again_is_the_same(whole: tuple[Path, str]) -> None:
    out, _ = whole
    before = (out / "report.html").read_text(encoding="utf-8")
    assert "no device learns from another" in before  # how to read the table
    code, _ = fibecfed("report", str(out))
    assert code == 0
    assert (out / "report.html").read_text(encoding="utf-8") == before


@pytest.mark.slow
def test_run_again_it_keeps_what_is_done(whole: tuple[Path, str], arguments: list[str]) -> None:
    out, _ = whole
    before = {p: p.stat().st_mtime_ns for m in METHODS for p in (out / m).rglob("*")}
    report = (out / "quickstart.json").read_bytes()
    code, output, errors = finished("--out", str(out), *arguments)
    assert code == 0, errors
    assert output.count("done before") == len(METHODS)
    assert before == {p: p.stat().st_mtime_ns for m in METHODS for p in (out / m).rglob("*")}
    assert (out / "quickstart.json").read_bytes() == report


@pytest.mark.slow
def test_stopped_by_ctrl_c_it_goes_on_bit_for_bit(
    whole: tuple[Path, str], arguments: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for method in METHODS[1:]:  # done before; the first one is interrupted and goes on
        shutil.copytree(whole[0] / method, out / method)
    running = process("--out", str(out), "--jobs", "1", *arguments)
    assert running.stdout is not None
    for line in running.stdout:
        if line.startswith(f"{METHODS[0]}: round 1/"):
            running.send_signal(signal.SIGINT)
            break
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "Interrupted." in errors
    assert "Traceback" not in errors
    assert not (out / METHODS[0] / "summary.json").exists()
    assert not (out / "quickstart.json").exists()
    code, _, errors = finished("--out", str(out), *arguments)
    assert code == 0, errors
    for method in METHODS:
        assert content(out / method) == content(whole[0] / method)


@pytest.mark.slow
def test_a_run_that_fails_is_named_with_its_reason(arguments: list[str], tmp_path: Path) -> None:
    wild = ["training.learning_rate=1e38", "training.optimizer=sgd", "training.max_grad_norm=null"]
    code, output, errors = finished("--out", str(tmp_path / "out"), *arguments, *wild)
    assert code == 1, output
    assert errors.count("Error:") == 1
    failed = errors.split("Error: ")[1].split(":")[0]
    assert failed in METHODS
    assert "lower training.learning_rate" in errors
    assert "Traceback" not in errors
    assert f"{failed}: failed" in output
    assert not (tmp_path / "out" / "quickstart.json").exists()
