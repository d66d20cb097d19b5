"""`fibecfed quickstart`: a few methods on the shipped messages, side by side, and a table that compares them."""

from fibecfed.quickstart.processes import Report, Task, run_side_by_side
from fibecfed.quickstart.recipe import METHODS, RECIPE, Plan, plan
from fibecfed.quickstart.report import Findings, Row, begin, example_message, findings, headings

__all__ = [
    "METHODS",
    "RECIPE",
    "Findings",
    "Plan",
    "Report",
    "Row",
    "Task",
    "begin",
    "example_message",
    "findings",
    "headings",
    "plan",
    "run_side_by_side",
]
