"""Early stopping, and curves written for TensorBoard and Trackio."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import fibecfed
from fibecfed import Callback, EarlyStopping, TensorBoard, Trackio, load_config
from fibecfed.cli.app import app
from fibecfed.commands import extra_install
from fibecfed.config import Config
from run_content import content


def config(bert: Path, rows_file: Path, *overrides: str) -> Config:
    """Six rounds of a tiny model."""
    return load_config(
        overrides=[
            f"model.name={bert}", f"data.file={rows_file}", "data.max_length=16", "data.train_examples=24",
            "method=fedavg-lora", "federation.devices=3", "federation.sampled=1", "federation.rounds=6",
            "training.learning_rate=0.02", *overrides,
        ]
    )  # fmt: skip


@pytest.fixture
def small(bert: Path, rows_file: Path) -> Config:
    return config(bert, rows_file)


def stops_at(accuracies: list[float], patience: int, known: int = 0) -> int | None:
    """The evaluation (1-based) after which early stopping ends a run; ``known``: evaluations before a resume."""
    records = [{"round": i, "accuracy_global": a} for i, a in enumerate(accuracies, start=1)]
    stopping = EarlyStopping(patience)
    stopping.started(None, None, records[:known])  # type: ignore[arg-type]
    for record in records[known:]:
        if stopping.stage_done(None, record):  # type: ignore[arg-type]
            return int(record["round"])
    return None


def test_it_stops_after_as_many_evaluations_without_a_better_one() -> None:
    assert stops_at([0.1, 0.5, 0.4, 0.5, 0.3], 2) == 4  # an equal one is no better one
    assert stops_at([0.1, 0.5, 0.4, 0.6, 0.3], 2) is None
    assert stops_at([0.5, 0.4], 1) == 2


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12), st.integers(1, 4), st.data())
def test_a_resumed_run_stops_where_an_uninterrupted_one_does(values: list[int], patience: int, data: Any) -> None:
    whole = stops_at([float(v) for v in values], patience)
    known = data.draw(st.integers(0, len(values) if whole is None else whole - 1))
    assert stops_at([float(v) for v in values], patience, known) == whole


def test_a_phase_without_an_evaluation_does_not_count() -> None:
    stopping = EarlyStopping(1)
    assert not stopping.stage_done(None, None)  # type: ignore[arg-type]
    assert not stopping.exhausted


def test_patience_ends_a_run_and_its_resume_changes_nothing(
    small: Config, bert: Path, rows_file: Path, tmp_path: Path
) -> None:
    everything = [r["accuracy_global"] for r in fibecfed.run(small).metrics]
    expected = stops_at(everything, 1)
    assert expected is not None  # otherwise this test says nothing
    assert expected < 6
    result = fibecfed.run(config(bert, rows_file, "evaluation.patience=1"), tmp_path / "run")
    assert [r["accuracy_global"] for r in result.metrics] == everything[:expected]
    assert result.summary["rounds"] == expected
    before = content(tmp_path / "run")
    fibecfed.resume(tmp_path / "run")
    assert content(tmp_path / "run") == before


def test_callbacks_are_told_the_end_of_a_failed_run(small: Config) -> None:
    class Failing(Callback):
        told = 0

        def stage_done(self, done: object, record: object) -> bool:
            raise RuntimeError("mine")

        def ended(self) -> None:
            self.told += 1

    callback = Failing()
    with pytest.raises(RuntimeError, match="mine"):
        fibecfed.run(small, callbacks=[callback])
    assert callback.told == 1


def test_tensorboard_reads_what_was_written(small: Config, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = fibecfed.run(small, callbacks=[TensorBoard(tmp_path)])
    events = EventAccumulator(str(tmp_path)).Reload().Scalars("accuracy_global")
    assert [e.step for e in events] == [r["round"] for r in result.metrics]
    assert [e.value for e in events] == pytest.approx([r["accuracy_global"] for r in result.metrics])


def test_trackio_is_given_every_evaluation(small: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[tuple[int, float]] = []
    made: dict[str, Any] = {}

    def init(**settings: Any) -> SimpleNamespace:
        made.update(settings)
        log = lambda metrics, step: logged.append((step, metrics["accuracy_global"]))  # noqa: E731
        return SimpleNamespace(log=log, finish=lambda: made.update(finished=True))

    monkeypatch.setitem(sys.modules, "trackio", SimpleNamespace(init=init))
    result = fibecfed.run(small, callbacks=[Trackio("mine")])
    assert logged == [(r["round"], r["accuracy_global"]) for r in result.metrics]
    assert (made["project"], made["resume"], made["finished"]) == ("mine", "never", True)
    assert made["config"]["method"] == "fedavg-lora"


def test_trackio_keeps_what_was_written(small: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))  # read when trackio is imported, which only this test does
    pytest.importorskip("trackio")
    fibecfed.run(small, callbacks=[Trackio("messages")])
    assert list(tmp_path.rglob("*messages*"))


@pytest.mark.parametrize(
    ("option", "package"), [("--tensorboard", "torch.utils.tensorboard"), ("--trackio", "trackio")]
)
def test_a_missing_extra_is_named(option: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    result = CliRunner().invoke(app, ["run", "--out", str(tmp_path / "out"), option, "x"])
    assert result.exit_code == 2
    assert f"needs the extra `{option[2:]}`: {extra_install(option[2:])}" in " ".join(result.output.split())
    assert not (tmp_path / "out").exists()
