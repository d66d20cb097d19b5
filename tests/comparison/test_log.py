"""The log of a search: a tiny comparison end to end, gone on with, added to, and its tables."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from comparison.test_comparison import in_this_process
from fibecfed import InputError
from fibecfed.cli.app import app
from fibecfed.comparison import running, write_log
from fibecfed.comparison.log import read_log, to_target
from fibecfed.comparison.log_tables import log_tables


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "run_side_by_side", in_this_process)
    monkeypatch.setattr("fibecfed.runs.writing.curves_png", lambda *_: b"")


@pytest.fixture
def content(bert: Path, rows_file: Path) -> dict[str, Any]:
    """Two variants × two seeds on the validation split; a partition that goes with one of two data sets."""
    rows = {"data": {"file": str(rows_file)}}
    return {
        "methods": ["fedavg-lora", {"name": "rank-4", "method": "fedavg-lora", "settings": {"lora": {"rank": 4}}}],
        "data_sets": [{"name": "one", "settings": rows}, {"name": "two", "settings": rows}],
        "partitions": [{"name": "noise", "settings": {"data": {"label_noise": 0.3}}, "data_sets": ["one"]}],
        "seeds": [0, 1],
        "split": "validation",
        "reference": "fedavg-lora",
        "base": {
            "model": {"name": str(bert)},
            "data": {"max_length": 32, "train_examples": 24},
            "federation": {"devices": 3, "sampled": 1, "rounds": 3},
            "lora": {"rank": 2, "alpha": 4},
        },
    }


def compare(folder: Path, content: dict[str, Any], *options: str) -> str:
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump(content))
    arguments = ["compare", str(path), "--out", str(folder / "out"), "--log", str(folder / "log.jsonl"), *options]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def test_two_variants_two_seeds_from_the_spec_to_the_log(tmp_path: Path, content: dict[str, Any]) -> None:
    assert "0 tuning runs before grids are widened, 4 runs" in compare(tmp_path, content, "--dry-run")
    assert not (tmp_path / "out").exists()
    assert "1 data sets" not in compare(tmp_path, content | {"seeds": [0]})
    first = (tmp_path / "log.jsonl").read_text()
    said = compare(tmp_path, content)  # the same directory, one seed more
    assert "4 runs, 2 of them done before" in said
    lines = read_log(tmp_path / "log.jsonl")
    assert [(x["partition"], x["variant"], x["seed"]) for x in lines] == [
        ("noise", "fedavg-lora", 0), ("noise", "fedavg-lora", 1), ("noise", "rank-4", 0), ("noise", "rank-4", 1)
    ]  # fmt: skip
    assert set(first.splitlines()) <= set((tmp_path / "log.jsonl").read_text().splitlines())
    assert {x["split"] for x in lines} == {"validation"}
    assert lines[2]["settings"]["lora"] == {"rank": 4, "alpha": 4}
    record = json.loads((tmp_path / "out" / "records" / "one--noise--rank-4--seed-0.json").read_text())
    assert lines[2]["final"]["global"] == pytest.approx(record["summary"]["mean"]["accuracy"]["global"], abs=1e-6)
    assert lines[2]["curve"]["bytes_up"] == [r["bytes_up"] for r in record["curve"]]
    assert lines[2]["git_commit"] == record["summary"]["git_commit"]
    assert "rank-4" in (tmp_path / "log.md").read_text()


def test_what_was_tried_stays_and_is_not_overwritten(tmp_path: Path, content: dict[str, Any]) -> None:
    content["seeds"] = [0]
    compare(tmp_path, content)
    compare(tmp_path, content | {"methods": content["methods"][:1]})
    assert [x["variant"] for x in read_log(tmp_path / "log.jsonl")] == ["fedavg-lora", "rank-4"]
    text = (tmp_path / "log.jsonl").read_text().replace('"rank":2', '"rank":3')
    (tmp_path / "log.jsonl").write_text(text)
    with pytest.raises(InputError, match="with other settings; what was tried is not overwritten"):
        write_log(tmp_path / "out", tmp_path / "log.jsonl")


def test_ctrl_c_leaves_what_was_done_in_the_log(
    tmp_path: Path, content: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_then_interrupted(runs: Any, *rest: Any, **options: Any) -> Any:
        in_this_process(runs[:1], *rest, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "run_side_by_side", one_then_interrupted)
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(content))
    log = tmp_path / "log.jsonl"
    words = ["compare", str(tmp_path / "spec.yaml"), "--out", str(tmp_path / "out"), "--log", str(log)]
    result = CliRunner().invoke(app, words)
    assert "What was done is kept" in result.output
    assert [(x["variant"], x["seed"]) for x in read_log(log)] == [("fedavg-lora", 0)]


def test_a_log_is_shown_against_any_of_its_variants(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps(line(v, 0, scores)) + "\n" for v, scores in (("a", [0.5]), ("b", [0.75]))))
    shown = CliRunner().invoke(app, ["report", str(log), "--reference", "a"]).output
    assert "global - a" in shown
    assert "+25.0" in shown
    wrong = CliRunner().invoke(app, ["report", str(log), "--reference", "aa"])
    assert wrong.exit_code == 2
    assert "has no variant 'aa'" in " ".join(wrong.stderr.split())
    assert CliRunner().invoke(app, ["report", str(tmp_path), "--reference", "a"]).exit_code == 2


def line(variant: str, seed: int, scores: list[float]) -> dict[str, Any]:
    steps = list(range(1, len(scores) + 1))
    return {
        "data_set": "trec", "partition": "skew", "split": "validation", "variant": variant, "seed": seed,
        "chosen_by": ["global", "personalized"], "final": {"global": scores[-1], "personalized": scores[-1]},
        "worst_tenth": scores[-1] / 2, "after_stage": None, "bytes_up": 10 * len(scores), "bytes_down": 0,
        "operations": 1e9, "simulated_seconds": len(scores), "git_commit": "abc-dirty", "versions": {"torch": "2"},
        "hardware": {"processor": "p", "cores": 2},
        "curve": {"round": steps, "global": scores, "personalized": scores, "bytes_up": [10 * s for s in steps],
                  "bytes_down": [0] * len(steps), "simulated_seconds": steps},
    }  # fmt: skip


def test_cost_to_the_references_own_final_score() -> None:
    reference, quick = line("ref", 0, [0.1, 0.2, 0.5, 0.6]), line("v", 0, [0.6, 0.6, 0.6, 0.7])
    found = to_target(quick, reference)
    assert found is not None
    assert found["global"] == {
        "target": 0.6,
        "spent": {"bytes": 30, "simulated_seconds": 3},  # the mean of the first three is 0.6
        "reference_spent": {"bytes": 40, "simulated_seconds": 4},  # its own mean of three stays below: the whole run
    }
    slow = to_target(line("w", 0, [0.1, 0.1, 0.1, 0.9]), reference)
    assert slow is not None
    assert slow["global"]["spent"] is None
    staged = {**line("w", 0, [0.1, 0.1, 0.1, 0.9]), "after_stage": "finetune"}
    assert (to_target(staged, reference) or {})["personalized"]["spent"] == {"bytes": 40, "simulated_seconds": 4}
    assert to_target(quick, None) is None


def test_tables_pair_by_seed_and_show_what_was_not_clean() -> None:
    runs = [line("ref", 0, [0.5]), line("ref", 1, [0.7]), line("v", 0, [0.6]), line("v", 1, [0.9]), line("v", 2, [0.1])]
    scores, over, costs = log_tables([{**r, "to_target": None} for r in runs], "ref")
    row = next(r for r in scores.rows if r[3] == "v")
    # differences 0.1 and 0.2: mean 0.15, s = 0.0707107, half width 12.7062 * 0.0707107 / sqrt(2) = 0.63531
    gain: Any = row[6]
    assert (gain.mean, gain.pairs) == (pytest.approx(0.15), 2)
    assert gain.high - gain.mean == pytest.approx(0.63531, abs=1e-5)
    worst: Any = row[10]
    assert worst.mean == pytest.approx(0.075)
    assert over.rows[0][:3] == ("validation", "v", 1)
    assert "abc-dirty" in scores.markdown()
    assert costs.rows[0][7] == "0 of 0"
