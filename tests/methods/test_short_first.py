"""slw and shortformer: what is cut in which round, what it costs, and when it is nothing."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import fibecfed
from baselines import changed, same_run, watched
from fibecfed import Config
from fibecfed.federation import Device

METHODS = ("slw", "shortformer")


def test_the_quantile_of_each_round_by_hand(small: Config) -> None:
    values = {"federation": {"rounds": 8}, "lengths": {"start": 0.2, "full_at": 0.5}}
    expected = {"slw": [0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1], "shortformer": [0.2] * 4 + [1] * 4}
    for method, levels in expected.items():
        run = watched(changed(small, values, method=method))
        found: dict[int, float] = {}
        for request, _ in run.of("train"):
            found[request.address.round] = request.info.get("length_quantile", 1)
        assert list(found.values()) == pytest.approx(levels)
        decided = run.experiment.method.decisions(run.experiment.site, run.state)
        assert decided["length_quantiles"] == pytest.approx(levels)
        cut = decided["tokens_cut"]
        assert all((c > 0) == (level < 1) for c, level in zip(cut, levels, strict=True))


@pytest.mark.parametrize("method", METHODS)
def test_tokens_are_cut_to_the_devices_own_quantile_and_counted(small: Config, method: str) -> None:
    run = watched(changed(small, method=method, lengths={"start": 0.3}))
    data = run.experiment.data.train
    total = 0
    for request, reply in (m for m in run.of("train") if m[0].address.round == 1):
        device = Device(run.experiment.site, request.address.device, 0)
        lengths = np.sort(data.lengths[device.indices])
        limit = lengths[int(np.ceil(0.3 * len(lengths))) - 1]
        job: Any = run.job(device, request)
        assert job.max_tokens == max(limit, 3)
        assert reply.info["tokens_cut"] == sum(max(0, n - job.max_tokens) for n in lengths)
        assert reply.info["tokens"] == lengths.sum() - reply.info["tokens_cut"]
        assert set(reply.tensors) == set(run.experiment.layout.names)
        total += reply.info["tokens_cut"]
    assert run.state.info["tokens"][0][1] == total > 0


@pytest.mark.parametrize("method", METHODS)
def test_short_texts_take_fewer_operations_for_the_same_bytes_and_examples(small: Config, method: str) -> None:
    plain, short = fibecfed.run(small).summary, fibecfed.run(changed(small, method=method)).summary
    assert short["operations"] < plain["operations"]
    assert short["examples_trained"] == plain["examples_trained"]
    assert abs(short["bytes"]["up"] - plain["bytes"]["up"]) < 400  # two numbers a reply


@pytest.mark.parametrize("method", METHODS)
def test_whole_texts_from_the_first_round_are_fedavg(small: Config, method: str) -> None:
    rounds = {"federation": {"rounds": 3}}
    plain = fibecfed.run(changed(small, rounds))
    whole = fibecfed.run(changed(small, rounds, method=method, lengths={"start": 1.0}))
    same_run(plain, whole, but=("bytes_up", "simulated_seconds"))  # two numbers in every reply


def test_texts_of_one_length_are_warned_of(small: Config, rows_file: Path, tmp_path: Path) -> None:
    rows = pd.read_csv(rows_file)
    rows["text"] = "where is my kettle"
    rows.to_csv(tmp_path / "rows.csv", index=False)
    fibecfed.run(changed(small, method="slw", data={"file": str(tmp_path / "rows.csv")}), tmp_path / "run")
    decided = json.loads((tmp_path / "run" / "method.json").read_text())
    assert "Only 0.0% of the tokens were cut in the rounds of short texts" in decided["warnings"][0]
    assert not (tmp_path / "run" / "method.png").exists()
    fibecfed.run(changed(small, method="slw"), tmp_path / "other")
    assert json.loads((tmp_path / "other" / "method.json").read_text())["warnings"] == []
