"""A run that ends with a judged stage has that stage's evaluation as its final number; others a mean."""

from pathlib import Path
from typing import Any

import pytest

import fibecfed
from fibecfed import Config
from fibecfed.config import build_config, merge, to_dict
from fibecfed.results import final_mean, final_numbers


def curve(*accuracies: float, stage: str | None = None) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = [
        {"round": n, "accuracy_global": a / 2, "accuracy_personalized": a, "worst_tenth": a / 4}
        for n, a in enumerate(accuracies, start=1)
    ]
    return records if stage is None else [*records[:-1], records[-1] | {"after_stage": stage}]


ROUNDS = (0.168, 0.276, 0.188, 0.284, 0.616, 0.556, 0.56, 0.88)  # fedavg+finetune at alpha 0.1, results/trec


def test_the_stage_alone_is_the_final_number() -> None:
    found = final_numbers(curve(*ROUNDS, stage="finetune"))["mean"]
    assert (found["evaluations"], found["rounds"]) == (1, [8])
    assert found["accuracy"] == {"global": 0.44, "personalized": 0.88}
    assert found["worst_tenth"] == 0.22


def test_it_is_also_where_a_comparison_averages_five() -> None:
    assert final_mean(curve(*ROUNDS, stage="finetune"), "accuracy_personalized", 5) == 0.88
    assert final_mean(curve(*ROUNDS), "accuracy_personalized", 5) == pytest.approx(0.5792)


def test_without_one_it_is_the_mean_of_the_last() -> None:
    found = final_numbers(curve(*ROUNDS))["mean"]
    assert found["evaluations"] == 2
    assert found["accuracy"]["personalized"] == pytest.approx(0.72)


@pytest.mark.parametrize(
    ("settings", "stage"),
    [
        ({"method": "fedavg+finetune"}, "finetune"),
        ({"method": "fibecfed", "sharing": {"average_local": True}}, "merge"),
        ({"method": "fibecfed"}, None),
    ],
)
def test_a_run_names_the_stage_that_it_is_judged_by(
    small: Config, tmp_path: Path, settings: dict[str, Any], stage: str | None
) -> None:
    config = build_config(merge(merge(to_dict(small), settings), {"federation": {"rounds": 8}}))
    result = fibecfed.run(config)
    assert [r.get("after_stage") for r in result.metrics] == [None] * 7 + [stage]
    assert result.summary["mean"]["rounds"] == ([7, 8] if stage is None else [8])
