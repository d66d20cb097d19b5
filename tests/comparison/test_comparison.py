"""Whole comparisons on a tiny model: what is kept, gone on with, refused and reported."""

import dataclasses
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from fibecfed import Config, InputError, RunFailed, run
from fibecfed.cli.app import app
from fibecfed.comparison import Comparison, build_report, running, write_report
from fibecfed.data import rows_print
from fibecfed.runs.run import resume
from fibecfed.side_by_side import Report, WantedRun

ROOT = Path(__file__).resolve().parents[2]


class Silent:
    """A watcher that keeps the names of the runs that ended."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def begins(self, stage: str, runs: Sequence[WantedRun]) -> None:
        pass

    def progressed(self, wanted: WantedRun, event: dict[str, Any]) -> None:
        pass

    def ended(self, wanted: WantedRun, reason: str | None) -> None:
        self.names.append(wanted.name)


def in_this_process(
    runs: Sequence[WantedRun], jobs: int, report: Report, seconds: float | None = None
) -> dict[str, str]:
    """What run_side_by_side does, without the seconds that a process takes to start."""
    reasons = {}
    for wanted in runs:
        if not wanted.done:
            try:
                resume(wanted.directory) if wanted.begun else run(wanted.config, wanted.directory)
            except RunFailed as error:
                reasons[wanted.name] = str(error)
            report.ended(wanted, reasons.get(wanted.name))
    return reasons


@pytest.fixture(scope="module")
def quick() -> Iterator[None]:
    """Runs in this process, without each run's own picture."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "run_side_by_side", in_this_process)
        patch.setattr("fibecfed.runs.writing.curves_png", lambda *_: b"")
        yield


@pytest.fixture(scope="module")
def content(bert: Path, rows_file: Path) -> dict[str, Any]:
    """2 methods × 2 seeds, two rates."""
    return {
        "methods": ["fedavg-lora", {"name": "rank-4", "method": "fedavg-lora", "settings": {"lora": {"rank": 4}}}],
        "data_sets": [{"name": "messages", "settings": {"data": {"file": str(rows_file)}}}],
        "seeds": [0, 1],
        "learning_rates": [0.0001, 0.02],
        "widenings": 0,
        "target": 0.2,
        "base": {
            "model": {"name": str(bert)},
            "data": {"max_length": 32, "train_examples": 24},
            "federation": {"devices": 3, "sampled": 1, "rounds": 3},
            "lora": {"rank": 2, "alpha": 4},
        },
    }


@pytest.fixture(scope="module")
def finished(quick: None, content: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison of which every run has ended; nobody writes into it."""
    folder = tmp_path_factory.mktemp("finished")
    assert len(compared(written(folder, content), folder / "out").names) == 2 * 2 + 2 * 2
    return folder / "out"


@pytest.fixture
def out(finished: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(finished, tmp_path / "out"))


def written(folder: Path, content: dict[str, Any], name: str = "spec.yaml") -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def compared(path: Path, out: Path, overrides: Sequence[str] = ()) -> Silent:
    watcher = Silent()
    outcome = Comparison.begin(path, out, overrides).run(1, None, watcher)
    assert not outcome.left
    return watcher


def tables(out: Path) -> dict[str, bytes]:
    """All that must be equal in two comparisons: everything but what was measured."""
    write_report(build_report(out))
    return {p.name: p.read_bytes() for p in sorted((out / "report").iterdir()) if not p.name.startswith("measured")}


@pytest.mark.drawn
def test_tables_are_made_of_the_records(out: Path, content: dict[str, Any]) -> None:
    found = tables(out)
    assert {"report.md", "accuracy.csv", "accuracy.tex", "target.csv", "curves--messages--base.png"} <= found.keys()
    records = [json.loads(p.read_text()) for p in sorted((out / "records").glob("*--rank-4--seed-*.json"))]
    assert len(records) == 2
    mean = sum(r["summary"]["accuracy"]["global"] for r in records) / 2
    row = next(line for line in found["accuracy.csv"].decode().splitlines() if ",rank-4," in line)
    assert float(row.split(",")[4]) == pytest.approx(mean)
    assert all(len(r["curve"]) == 3 and r["config"]["lora"]["rank"] == 4 for r in records)
    assert "## Ablations" in found["report.md"].decode()


@pytest.mark.usefixtures("quick")
def test_what_is_done_is_not_done_again(tmp_path: Path, out: Path, content: dict[str, Any]) -> None:
    before = tables(out)
    assert compared(written(tmp_path, content), out).names == []
    assert tables(out) == before


def test_rate_with_the_best_validation_accuracy_is_used(out: Path) -> None:
    for method in ("fedavg-lora", "rank-4"):
        tried = {}
        for rate in ("0.0001", "0.02"):
            record = json.loads((out / "records" / f"messages--base--{method}--rate-{rate}.json").read_text())
            assert record["summary"]["evaluated_on"] == "validation"
            tried[float(rate)] = record["summary"]["accuracy"]["global"]
        best = max(tried, key=lambda rate: tried[rate])
        final = json.loads((out / "records" / f"messages--base--{method}--seed-1.json").read_text())
        assert final["config"]["training"]["learning_rate"] == best
        assert final["summary"]["evaluated_on"] == "test"


@pytest.mark.usefixtures("quick")
def test_a_grid_is_widened_while_it_runs_and_gone_on_with(tmp_path: Path, content: dict[str, Any]) -> None:
    """Of two rates one is always at an edge."""
    path = written(tmp_path, content | {"methods": ["fedavg-lora"], "seeds": [0], "widenings": 1})
    names = compared(path, tmp_path / "out").names
    assert len(names) == 4
    assert names[:2] == ["messages--base--fedavg-lora--rate-0.0001", "messages--base--fedavg-lora--rate-0.02"]
    assert names[2] in {f"messages--base--fedavg-lora--rate-{rate}" for rate in ("5e-07", "4")}
    assert "widened 1 x" in tables(tmp_path / "out")["report.md"].decode()
    (tmp_path / "out" / "records" / f"{names[2]}.json").unlink()
    shutil.rmtree(tmp_path / "out" / "runs" / names[2])
    assert compared(path, tmp_path / "out").names == [names[2]]


def test_report_needs_records_alone(out: Path, tmp_path: Path) -> None:
    before = tables(out)
    (out / "runs").rename(tmp_path / "elsewhere")
    assert tables(out) == before


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("where", ["file", "command line"])
def test_more_seeds_only_add_runs(tmp_path: Path, out: Path, content: dict[str, Any], where: str) -> None:
    if where == "file":
        names = compared(written(tmp_path, content | {"seeds": [0, 1, 2]}), out).names
    else:
        names = compared(written(tmp_path, content), out, ["seeds=[0,1,2]"]).names
        assert "3 seeds" in tables(out)["report.md"].decode()
    assert sorted(names) == ["messages--base--fedavg-lora--seed-2", "messages--base--rank-4--seed-2"]


def test_results_of_other_settings_are_refused(tmp_path: Path, out: Path, content: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="other settings than the comparison asks for"):
        Comparison.begin(written(tmp_path, content), out, ["federation.rounds=4"])


def test_results_of_other_data_are_refused(
    tmp_path: Path, out: Path, content: dict[str, Any], rows_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = running.load_splits

    def changed(config: Config) -> Any:
        splits = real(config)
        return dataclasses.replace(splits, source={**splits.source, "train": rows_print(splits.test)})

    monkeypatch.setattr(running, "load_splits", changed)
    with pytest.raises(InputError, match="made of other data than there is now: the training data had 120 rows"):
        Comparison.begin(written(tmp_path, content), out)
    path = out / "records" / "messages--base--rank-4--seed-1.json"
    record = json.loads(path.read_text())
    record["summary"]["data_print"]["source"]["train"]["rows"] = 7
    path.write_text(json.dumps(record))
    with pytest.raises(InputError, match="Results of different data are not mixed"):
        build_report(out)


def test_a_run_that_went_on_with_other_settings_is_refused(tmp_path: Path, out: Path, content: dict[str, Any]) -> None:
    """By hand; in the end it has those that the comparison asks for, but had not all the way."""
    run = out / "runs" / "messages--base--rank-4--seed-1"
    (out / "records" / f"{run.name}.json").unlink()
    for size in (32, 64):
        resume(run, changes={"evaluation": {"batch_size": size}}, report=lambda sentence: None)
    with pytest.raises(InputError, match=r"on its way \(evaluation\.batch_size\)"):
        Comparison.begin(written(tmp_path, content), out)


def test_a_comparison_of_the_earlier_rule_keeps_it(out: Path) -> None:
    """The mean of the last five evaluations, also of three: nothing that was reported changes."""
    state = json.loads((out / "comparison.json").read_text())
    del state["final_mean"]
    (out / "comparison.json").write_text(json.dumps(state))
    records = [json.loads(p.read_text()) for p in (out / "records").glob("*--rank-4--seed-*.json")]
    mean = sum(r["accuracy_global"] for record in records for r in record["curve"]) / 6
    found = tables(out)
    row = next(line for line in found["accuracy.csv"].decode().splitlines() if ",rank-4," in line)
    assert float(row.split(",")[4]) == pytest.approx(mean)
    assert "the mean of the last 5 evaluations" in found["report.md"].decode()


def test_results_of_other_versions_are_refused(
    tmp_path: Path, out: Path, content: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "versions", lambda: running_versions(out) | {"torch": "0.1"})
    with pytest.raises(InputError, match=r"begun with other versions \(then and now: torch .* and 0\.1\)"):
        Comparison.begin(written(tmp_path, content), out)
    record = out / "records" / "messages--base--rank-4--seed-1.json"
    changed = json.loads(record.read_text())
    changed["summary"]["versions"]["torch"] = "0.1"
    record.write_text(json.dumps(changed))
    with pytest.raises(InputError, match="made with different versions"):
        build_report(out)


def running_versions(out: Path) -> dict[str, str]:
    return dict(json.loads((out / "comparison.json").read_text())["made_with"])


def test_wrong_method_fails_before_anything_is_written(tmp_path: Path, content: dict[str, Any]) -> None:
    path = written(tmp_path, content | {"methods": ["fedavg-lra"]})
    result = CliRunner().invoke(app, ["compare", str(path), "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert "Did you mean 'fedavg-lora'" in " ".join(result.output.split())
    assert not (tmp_path / "out").exists()


def test_missing_data_fails_before_anything_is_written(tmp_path: Path, content: dict[str, Any]) -> None:
    missing = {"name": "messages", "settings": {"data": {"file": str(tmp_path / "none.csv")}}}
    content = content | {"data_sets": [missing]}
    with pytest.raises(InputError, match=r"Run 'messages--base--fedavg-lora--rate-0.0001': .*none\.csv"):
        Comparison.begin(written(tmp_path, content), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_folder_of_something_else_is_left_alone(tmp_path: Path, content: dict[str, Any]) -> None:
    path, out = written(tmp_path, content), tmp_path / "out"
    out.mkdir()
    (out / "letters.txt").write_text("mine")
    with pytest.raises(InputError, match="something other than a comparison"):
        Comparison.begin(path, out)


def test_report_of_no_comparison(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not the directory of a comparison"):
        build_report(tmp_path)


def test_no_time_runs_nothing_and_says_what_is_left(tmp_path: Path, content: dict[str, Any]) -> None:
    arguments = ["compare", str(written(tmp_path, content)), "--out", str(tmp_path / "out"), "--hours", "0"]
    result = CliRunner().invoke(app, arguments)
    output = " ".join(result.output.split())
    assert result.exit_code == 0, output
    assert "0 of 8 runs done. The time is up. Left: messages--base--fedavg-lora--rate-0.0001" in output
    assert "Go on with: fibecfed compare" in output


def process(path: Path, out: Path, jobs: int) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "fibecfed", "compare", str(path), "--out", str(out), "--jobs", str(jobs)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def wait_for(done: Path, running: "subprocess.Popen[bytes]") -> None:
    """Until there is such a file, or the process has ended; a limit stops a wait in vain."""
    until = time.monotonic() + 120
    while not done.exists() and running.poll() is None:
        assert time.monotonic() < until, f"{done} was not written in 120 s"
        time.sleep(0.02)
