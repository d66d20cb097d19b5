"""Learning rates: each protocol's own choice, and grids that widen while the best is at an edge."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from fibecfed.comparison import load_spec
from fibecfed.comparison.rates import Tuning, beyond, chosen, rates_of, tried_runs, tunings
from fibecfed.comparison.spec import Setting, Spec, final_runs
from fibecfed.config import to_dict
from fibecfed.results import versions

CELL = (Setting("support", "base"), "fibecfed")


def test_each_protocol_has_the_rate_of_its_own_best() -> None:
    scores = {"global": {0.1: 0.5, 0.2: 0.7}, "personalized": {0.1: 0.9, 0.2: 0.8}}
    assert chosen(scores) == {"global": 0.2, "personalized": 0.1}


def test_equal_scores_need_no_second_run() -> None:
    scores = {"global": {0.1: 0.5, 0.2: 0.7}, "personalized": {0.1: 0.8, 0.2: 0.8}}
    assert chosen(scores) == {"global": 0.2, "personalized": 0.2}


def test_one_deciding_protocol_decides_for_both() -> None:
    assert chosen({"personalized": {0.1: 0.9, 0.2: 0.8}}) == {"global": 0.1, "personalized": 0.1}


@pytest.mark.parametrize(
    ("scores", "wanted"),
    [
        ([{1.0: 0.1, 3.0: 0.5, 10.0: 0.4}], []),
        ([{1.0: 0.6, 3.0: 0.5, 10.0: 0.4}], [0.333]),
        ([{1.0: 0.1, 3.0: 0.5, 10.0: 0.6}], [33.3]),
        ([{1.0: 0.1, 3.0: 0.5, 10.0: 0.6}, {1.0: 0.9, 3.0: 0.5, 10.0: 0.6}], [0.333, 33.3]),
        ([{1.0: 0.5, 3.0: 0.5, 10.0: 0.4}], []),  # as good inside
        ([{1.0: 0.1, 3.0: 0.5}], []),  # 10 diverged
    ],
)
def test_a_best_at_an_edge_widens_by_the_grids_own_factor(
    scores: list[dict[float, float]], wanted: list[float]
) -> None:
    assert beyond([1.0, 3.0, 10.0], scores) == wanted


def test_one_rate_alone_is_not_widened() -> None:
    assert beyond([1.0], [{1.0: 0.3}]) == []


def spec_of(folder: Path, **changes: Any) -> Spec:
    path = folder / "spec.yaml"
    content = {"methods": ["fibecfed"], "data_sets": ["support"], "seeds": [0, 1], "learning_rates": [0.001, 0.01]}
    path.write_text(yaml.safe_dump(content | changes))
    return load_spec(path)


def ran(out: Path, spec: Spec, score: Any) -> list[float]:
    """Write the record of every tuning run that is wanted and not there, as a run would; the rates of those."""
    new = []
    (out / "records").mkdir(parents=True, exist_ok=True)
    for run in tried_runs(spec, tunings(out, spec, {})):
        path = out / "records" / f"{run.name}.json"
        if path.is_file():
            continue
        config = to_dict(run.config)
        config["data"].pop("dir")
        line = {"round": 1, "worst_tenth": 0.0, "metric": "accuracy"}
        line |= {f"accuracy_{p}": score(run.rate)[p == "personalized"] for p in ("global", "personalized")}
        summary = {"versions": versions(), "hardware": {"accelerator": None}}
        path.write_text(json.dumps({"config": config, "summary": summary, "curve": [line]}))
        new.append(run.rate)
    return new


def steps(out: Path, spec: Spec, score: Any) -> list[list[float]]:
    found = []
    while new := ran(out, spec, score):
        found.append(new)
    return found


def test_a_grid_widens_until_the_best_lies_inside(tmp_path: Path) -> None:
    spec = spec_of(tmp_path)
    best = {0.001: 0.1, 0.01: 0.2, 0.1: 0.3, 1.0: 0.2}
    assert steps(tmp_path, spec, lambda rate: (best[rate], best[rate])) == [[0.001, 0.01], [0.1], [1.0]]
    found = tunings(tmp_path, spec, {})[CELL]
    assert (found.chosen, found.widened) == ({"global": 0.1, "personalized": 0.1}, 2)
    assert not found.at_edge("global")


def test_a_grid_widens_at_most_so_often_and_says_that_it_is_still_at_the_edge(tmp_path: Path) -> None:
    spec = spec_of(tmp_path)
    assert steps(tmp_path, spec, lambda rate: (rate, rate)) == [[0.001, 0.01], [0.1], [1.0], [10.0]]
    found = tunings(tmp_path, spec, {})[CELL]
    assert found == Tuning((0.001, 0.01, 0.1, 1.0, 10.0), {"global": 10.0, "personalized": 10.0}, 3)
    assert found.at_edge("global")
    assert steps(tmp_path / "none", spec_of(tmp_path, widenings=0), lambda rate: (rate, rate)) == [[0.001, 0.01]]


def test_two_rates_are_two_runs_a_seed_each_for_its_protocol(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, learning_rates=[0.001, 0.01, 0.1, 1.0])
    steps(tmp_path, spec, lambda rate: (rate == 0.01, rate == 0.1))
    runs = final_runs(spec, rates_of(tunings(tmp_path, spec, {})))
    assert [(run.name, run.rate, run.protocols) for run in runs if run.seed == 1] == [
        ("support--base--fibecfed--seed-1", 0.01, ("global",)),
        ("support--base--fibecfed--seed-1--personalized", 0.1, ("personalized",)),
    ]


def test_no_rate_is_chosen_while_a_run_of_the_grid_is_missing(tmp_path: Path) -> None:
    spec = spec_of(tmp_path)
    ran(tmp_path, spec, lambda rate: (0.5, 0.5))
    (tmp_path / "records" / "support--base--fibecfed--rate-0.01.json").unlink()
    assert rates_of(tunings(tmp_path, spec, {})) == {}
