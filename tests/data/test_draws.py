"""Devices that draw their examples for themselves: what each holds, who is judged, and what does not grow with them."""

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import fibecfed
from fibecfed import Config, InputError, load_config
from fibecfed.cli.app import app
from fibecfed.config import build_config, merge, settle, to_dict
from fibecfed.config.data import PartitionConfig
from fibecfed.data import MOST_LISTED
from fibecfed.data.draws import Draws, SomeHold, deal_to_some, draw_for_each
from fibecfed.runtime import assemble
from fibecfed.seeding import stream

MILLION = 1_000_000
LABELS = np.random.default_rng(0).choice(4, size=900, p=[0.5, 0.3, 0.15, 0.05])


def drawn(devices: int = 200, seed: int = 0, each: int = 40, **settings: Any) -> Draws:
    return draw_for_each(LABELS, 4, PartitionConfig(examples_per_device=each, **settings), devices, seed)


@pytest.mark.parametrize("kind", ["iid", "dirichlet", "dirichlet-hsu"])
def test_a_device_draws_so_many_different_examples_by_its_number(kind: str) -> None:
    draws, again, other = drawn(kind=kind), drawn(kind=kind, devices=MILLION), drawn(kind=kind, seed=1)
    for device in (0, 7, 199):
        mine = draws.indices(device)
        assert len(mine) == 40
        assert (np.diff(mine) > 0).all()
        assert (mine == again.indices(device)).all()  # whatever the others are
        assert not np.array_equal(mine, other.indices(device))
    with pytest.raises(IndexError):
        draws.indices(200)


def test_label_proportions_are_those_of_the_kind() -> None:
    share = {kind: _largest_share(drawn(kind=kind, alpha=0.5)) for kind in ("iid", "dirichlet", "dirichlet-hsu")}
    assert 0.45 < share["iid"] < 0.6 < share["dirichlet"] < share["dirichlet-hsu"]
    together = drawn(2000, kind="dirichlet").label_counts(LABELS, 4).sum(axis=0)
    assert np.abs(together / together.sum() - np.bincount(LABELS) / len(LABELS)).max() < 0.05


def _largest_share(draws: Draws) -> float:
    counts = draws.label_counts(LABELS, 4)
    return float((counts.max(axis=1) / counts.sum(axis=1)).mean())


def test_a_class_of_which_there_is_too_little_is_made_up_for() -> None:
    draws = drawn(each=600, alpha=0.01, kind="dirichlet")
    assert all(len(np.unique(draws.indices(k))) == 600 for k in range(20))
    with pytest.raises(InputError, match="only 900 training examples"):
        drawn(each=901)


def test_held_out_examples_go_to_some_of_many_devices_and_to_all_of_few() -> None:
    held = np.tile(np.arange(4), 25)
    few = deal_to_some(drawn(10), LABELS, held, 4, 0, stream(0, "test"))
    assert few.sizes.tolist() == [10] * 10
    many = deal_to_some(drawn(MILLION), LABELS, held, 4, 0, stream(0, "test"))
    assert isinstance(many, SomeHold)
    owner = many.owner()
    assert len(np.unique(owner)) == 100
    assert owner.max() > 1000  # not the first ones
    assert all(many.indices(k).tolist() == np.flatnonzero(owner == k).tolist() for k in np.unique(owner).tolist())
    assert not len(many.indices(int(owner.max()) - 1)) or int(owner.max()) - 1 in owner
    assert many.sizes.sum() == many.label_counts(held, 4).sum() == 100
    assert many.label_counts(held, 4, 5).shape == (5, 4)


def test_what_is_drawn_is_part_of_what_the_data_was() -> None:
    prints = {tuple(d.described()) for d in (drawn(), drawn(201), drawn(seed=1), drawn(each=41), drawn(kind="iid"))}
    assert len(prints) == 5


@pytest.mark.parametrize(
    "setting",
    [
        {"kind": "shards"},
        {"kind": "quantity"},
        {"kind": "column"},
        {"size_alpha": 1.0},
        {"habits": 0.5},
        {"minimum": 9},
    ],
    ids=str,
)
def test_what_cannot_go_with_draws_is_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="examples_per_device=8 lets devices draw"):
        load_config(data={"partition": {"examples_per_device": 8, **setting}})


def test_rows_that_name_devices_are_drawn_from_like_others() -> None:
    config = load_config(data={"file": "rows.csv", "partition": {"examples_per_device": 8}})
    assert settle(config, 3).data.partition.kind == "dirichlet"


@pytest.fixture
def crowd(small: Config) -> Config:
    """``small`` with a million devices that draw."""
    changes = {"data": {"partition": {"examples_per_device": 5}}, "federation": {"devices": MILLION, "rounds": 1}}
    return build_config(merge(to_dict(small), changes))


def test_a_million_devices_take_no_memory(crowd: Config) -> None:
    assemble(replace(crowd, federation=replace(crowd.federation, devices=10)))  # imports, caches
    tracemalloc.start()
    try:
        experiment = assemble(crowd)
        (done,) = experiment.server.run(experiment.start)
        evaluation = experiment.evaluate(done.state)
        experiment.partition()
        assert tracemalloc.get_traced_memory()[1] < 4 * MILLION  # not even an int32 for each
    finally:
        tracemalloc.stop()
    assert max(done.cohort) > MOST_LISTED
    assert len(evaluation.devices) == len(experiment.data.held_out)


def test_files_list_no_crowd_and_say_so(crowd: Config, tmp_path: Path) -> None:
    fibecfed.run(crowd, tmp_path / "out")
    written = json.loads((tmp_path / "out" / "partition.json").read_text())
    assert written["devices"] == MILLION
    assert written["train"] is None
    assert "10,000" in written["not_listed"]
    assert all(path.stat().st_size < 100_000 for path in (tmp_path / "out").rglob("*.json*"))
    again = fibecfed.resume(tmp_path / "out")
    assert again.state.round == 1


def test_the_first_of_many_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fibecfed.data.draws.MOST_LISTED", 50)
    result = CliRunner().invoke(
        app,
        ["partition", "data.partition.examples_per_device=2", "federation.devices=300"],
        env={"COLUMNS": "200", "TERM": "dumb"},
    )
    assert result.exit_code == 0, result.output
    assert "300 devices, 600 training examples" in result.output
    assert "the first 50" in result.output
    assert "60 devices have none" in result.output
