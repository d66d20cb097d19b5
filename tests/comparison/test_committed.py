"""The tables under results/ are those that the records beside them give."""

from pathlib import Path

import pytest

from fibecfed.comparison import build_report

RESULTS = Path(__file__).resolve().parents[2] / "results"
COMPARISONS = sorted(path.parent for path in RESULTS.glob("*/comparison.json"))


def test_there_are_some() -> None:
    assert RESULTS / "smoke" in COMPARISONS


@pytest.mark.parametrize("directory", COMPARISONS, ids=lambda path: path.name)
def test_committed_tables_are_derived_again(directory: Path) -> None:
    report = build_report(directory)
    assert report.markdown() == (directory / "report" / "report.md").read_text(encoding="utf-8")
    for table in (*report.tables, report.measured):
        assert table.csv() == (directory / "report" / f"{table.key}.csv").read_text(encoding="utf-8")
        assert table.latex() == (directory / "report" / f"{table.key}.tex").read_text(encoding="utf-8")
