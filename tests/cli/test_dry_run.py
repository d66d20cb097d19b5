"""`run --dry-run`: the bytes of the whole run, by stage and by who takes part."""

import re
from typing import Any

import pytest
from typer.testing import CliRunner

import fibecfed
from fibecfed.cli.app import app
from fibecfed.config import Config, build_config, merge, to_dict
from fibecfed.federation import MemoryStore
from fibecfed.runs.estimate import traffic
from fibecfed.runtime import assemble


@pytest.fixture
def warm(small: Config) -> Config:
    """FibecFed: two rounds of warm-up, an initialization, three rounds."""
    values: dict[str, Any] = {"method": "fibecfed", "warm_up": {"rounds": 2}, "federation": {"rounds": 5}}
    return build_config(merge(to_dict(small), values))


def dry(config: Config, *settings: str) -> str:
    arguments = [
        f"method={config.method}", f"model.name={config.model.name}", f"data.file={config.data.file}", "lora.rank=2",
        "lora.alpha=4", "data.max_length=32", "federation.devices=6", "federation.sampled=3", *settings,
    ]  # fmt: skip
    result = CliRunner().invoke(app, ["run", *arguments, "--dry-run"], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return result.output


def row(output: str, name: str) -> tuple[int, int]:
    (line,) = [line for line in output.splitlines() if f"│ {name} " in line]
    down, up = re.findall(r"[\d,]+", line.split("│", 2)[2])
    return int(down.replace(",", "")), int(up.replace(",", ""))


def test_each_stage_and_the_whole_run_are_named(warm: Config) -> None:
    output = dry(warm, "warm_up.rounds=2", "federation.rounds=5")
    stages = [
        row(output, "warm-up, rounds 1 to 2, 3 devices each"),
        row(output, "initialize, once, 3 devices"),
        row(output, "rounds 3 to 5, 3 devices each"),
    ]
    whole = row(output, "the whole run, all of 6 devices")
    assert whole == (sum(down for down, _ in stages), sum(up for _, up in stages))
    one, sampled = (
        row(output, "a round in mid-run, one device"),
        row(output, "a round in mid-run, the 3 devices sampled"),
    )
    assert sampled == (3 * one[0], 3 * one[1])
    assert "Assumed: every device answers; no round is left out." in output


def test_what_ends_a_run_or_a_warm_up_sooner_is_said(warm: Config) -> None:
    output = dry(warm, "federation.rounds=10", "evaluation.patience=3", "sharing.count=functional")
    assert "although evaluation.patience may end the run sooner" in output
    assert "the warm-up takes the 2 rounds it may" in output
    assert "half of the layers are shared (sharing.count=functional decides in the run)" in output


def test_devices_that_are_never_sampled_are_counted(small: Config) -> None:
    assert "3 of the 6 devices are sampled at least once" in dry(small, "federation.sampled=2", "federation.rounds=2")


def test_a_method_without_rounds_has_its_one_exchange(small: Config) -> None:
    output = dry(small, "method=ridge-head")
    assert row(output, "statistics, once, 6 devices") == row(output, "the whole run, all of 6 devices")


def test_stretches_hold_what_a_run_counts_in_its_stages(warm: Config) -> None:
    found = traffic(assemble(warm))
    for name, spent in fibecfed.run(warm).summary["stages"].items():
        assert sum(s.bytes_down for s in found.stretches if s.name == name) == spent["bytes_down"]
    assert (found.warm_up, found.devices) == (2, 6)


def test_an_estimate_scores_only_a_few_examples(warm: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scoring a whole device, and counting operations, took most of the time of a dry run."""
    from fibecfed.runs.estimate import ordinary_round
    from fibecfed.training.operations import OperationCounter

    monkeypatch.setattr(OperationCounter, "_count", None)
    config = build_config(
        merge(to_dict(warm), {"federation": {"devices": 1, "sampled": 1}, "training": {"batch_size": 4}})
    )
    experiment = assemble(config, MemoryStore())
    assert experiment.data.devices.sizes.tolist() == [len(experiment.data.train)]
    job = ordinary_round(experiment).job
    assert job is not None
    assert 0 < sum(map(len, job.batches)) <= 8
