"""The numbers of a comparison, against values worked out by hand."""

import math
from pathlib import Path

import pytest

from fibecfed.comparison import build_report
from fibecfed.comparison.statistics import (
    Spread,
    average_ranks,
    carries_no_claim,
    paired_interval,
    ratio,
    reached,
    spread,
)


def curve(*accuracies: float) -> list[dict[str, float]]:
    return [{"accuracy_global": a, "round": i} for i, a in enumerate(accuracies, start=1)]


def test_spread_is_the_sample_standard_deviation() -> None:
    found = spread([0.7, 0.8, 0.9])
    assert found.mean == pytest.approx(0.8)
    assert found.deviation == pytest.approx(0.1)  # sqrt((0.01 + 0 + 0.01) / 2)


def test_one_seed_has_no_spread() -> None:
    assert spread([0.7]) == Spread(0.7, None)


def test_paired_interval_of_four_differences() -> None:
    # mean 2.5, s = sqrt(5/3), t(3) = 3.182446: half width 3.182446 * 1.290994 / 2 = 2.054260
    found = paired_interval([1.0, 2.0, 3.0, 4.0])
    assert found.mean == pytest.approx(2.5)
    assert (found.low, found.high) == (pytest.approx(0.445740, abs=1e-6), pytest.approx(4.554260, abs=1e-6))
    assert found.pairs == 4


def test_paired_interval_of_two_differences_uses_one_degree_of_freedom() -> None:
    found = paired_interval([0.0, 2.0])  # t(1) = 12.7062, s = sqrt(2), so half the width is 12.7062
    assert (found.low, found.high) == (pytest.approx(-11.7062, abs=1e-4), pytest.approx(13.7062, abs=1e-4))


def test_one_pair_has_no_interval() -> None:
    found = paired_interval([0.1])
    assert (found.mean, found.low, found.high, found.pairs) == (0.1, None, None, 1)


def test_target_needs_the_mean_of_three_consecutive_evaluations() -> None:
    accuracies = curve(0.5, 0.9, 0.6, 0.8, 0.85, 0.9)  # means from the third on: .667 .767 .75 .85
    assert reached(accuracies, 0.76) == accuracies[3]
    assert reached(accuracies, 0.8) == accuracies[5]
    assert reached(accuracies, 0.86) is None


def test_target_equal_to_the_mean_is_reached() -> None:
    assert reached(curve(0.1, 0.1, 0.1), 0.1) is not None  # (0.1 + 0.1 + 0.1) / 3 is not 0.1 in binary


def test_two_evaluations_reach_nothing() -> None:
    assert reached(curve(1.0, 1.0), 0.5) is None


def test_ranks_average_over_settings_and_ties_share() -> None:
    settings = [{"a": 0.9, "b": 0.8, "c": 0.7}, {"a": 0.5, "b": 0.6, "c": 0.6}]
    assert average_ranks(settings) == {"a": 2.0, "b": 1.75, "c": 2.25}  # second: a 3, b and c share 1.5


def test_ranks_refuse_settings_with_other_methods() -> None:
    with pytest.raises(ValueError, match="same methods"):
        average_ranks([{"a": 1.0}, {"b": 1.0}])


def test_ratio_is_missing_where_a_part_of_it_is() -> None:
    assert ratio(3.0, 4.0) == 0.75
    assert ratio(None, 4.0) is ratio(3.0, None) is ratio(3.0, 0.0) is None


@pytest.mark.parametrize(
    ("ridge", "centralized", "expected"),
    [(0.93, 0.95, True), (0.92, 0.95, False), (0.96, 0.95, True), (None, 0.95, False), (0.9, None, False)],
)
def test_two_points_from_centralized_training_carry_no_claim(
    ridge: float | None, centralized: float | None, expected: bool
) -> None:
    assert carries_no_claim(ridge, centralized) is expected


def test_a_setting_that_carries_no_claim_says_by_how_much() -> None:
    committed = Path(__file__).resolve().parents[2] / "results" / "smoke"
    table = next(table for table in build_report(committed).tables if table.key == "accuracy")
    accuracy = {row[2]: row[4] for row in table.rows}
    points = 100 * (accuracy["ridge-head"].mean - accuracy["centralized-lora"].mean)
    assert points > 2
    (note,) = [note for note in table.notes if note.startswith("Carries no claim")]
    assert note.endswith(f"support, companies ({points:.1f} points above).")


def test_interval_is_narrower_for_the_same_differences_repeated() -> None:
    few, many = paired_interval([1.0, 2.0]), paired_interval([1.0, 2.0] * 8)
    assert few.high is not None
    assert many.high is not None
    assert math.isclose(few.mean, many.mean)
    assert many.high < few.high
