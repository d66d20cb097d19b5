"""The report that is looked at: one HTML file of a run or of several, made from the files that they left."""

from fibecfed.report.costs import lost_in_runs, mean_phases, phases_chart, phases_of
from fibecfed.report.curves import X_AXES, score_chart
from fibecfed.report.holdings import holdings_chart
from fibecfed.report.page import Cell, Chart, Page, Section, Table
from fibecfed.report.run_page import run_page
from fibecfed.report.score import Score
from fibecfed.report.settings import environment_table, settings_table
from fibecfed.report.writing import leave_report, write_page, write_run_report

__all__ = [
    "X_AXES",
    "Cell",
    "Chart",
    "Page",
    "Score",
    "Section",
    "Table",
    "environment_table",
    "holdings_chart",
    "leave_report",
    "lost_in_runs",
    "mean_phases",
    "phases_chart",
    "phases_of",
    "run_page",
    "score_chart",
    "settings_table",
    "write_page",
    "write_run_report",
]
