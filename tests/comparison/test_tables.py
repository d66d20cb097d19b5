"""Tables in three formats: what is rounded, what is not, and what must be escaped."""

import csv
import io

from fibecfed.comparison.statistics import Interval, Spread
from fibecfed.comparison.tables import Column, ReportTable

TABLE = ReportTable(
    "accuracy",
    "Final accuracy",
    (
        Column("method"),
        Column("global", 1, 100.0),
        Column("gain", 1, 100.0, signed=True),
        Column("MB", 1, 1e-6, plain_name="bytes"),
    ),
    [
        ("a_b", Spread(0.81234, 0.0125), Interval(0.02, -0.01, 0.05, 6), 1_234_500_000),
        ("c|d", Spread(0.5, None), Interval(-0.0001, None, None, 1), None),
    ],
    ["100 % of it."],
)  # fmt: skip


def test_markdown_rounds_and_scales() -> None:
    assert TABLE.markdown() == (
        "## Final accuracy\n\n"
        "| method | global | gain | MB |\n| :-- | --: | --: | --: |\n"
        "| a_b | 81.2 ± 1.2 | +2.0 (-1.0 to +5.0) | 1,234.5 |\n"
        "| c\\|d | 50.0 | +0.0 | - |\n\n"
        "100 % of it.\n"
    )


def test_csv_keeps_full_numbers_and_as_many_cells_in_each_row() -> None:
    rows = list(csv.reader(io.StringIO(TABLE.csv())))
    assert rows[0] == [
        "method", "global", "global, standard deviation", "gain", "gain, low", "gain, high", "gain, pairs", "bytes"
    ]  # fmt: skip
    assert rows[1] == ["a_b", "0.81234", "0.0125", "0.02", "-0.01", "0.05", "6", "1234500000"]
    assert rows[2] == ["c|d", "0.5", "", "-0.0001", "", "", "1", ""]


def test_latex_escapes_what_it_would_read_as_commands() -> None:
    text = TABLE.latex()
    assert r"a\_b & 81.2 $\pm$ 1.2 & +2.0 (-1.0 to +5.0) & 1,234.5 \\" in text
    assert r"\caption{Final accuracy. 100 \% of it.}" in text
    assert r"\begin{tabular}{lrrr}" in text
