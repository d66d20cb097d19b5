"""`fibecfed quickstart`: a few methods on the shipped messages, side by side, and a table that compares them."""

from fibecfed.quickstart.page import quickstart_page
from fibecfed.quickstart.recipe import METHODS, RECIPE, Plan, check_same_data, plan
from fibecfed.quickstart.report import (
    Findings,
    Row,
    begin,
    example_message,
    findings,
    findings_in,
    headings,
    is_quickstart,
)

__all__ = [
    "METHODS",
    "RECIPE",
    "Findings",
    "Plan",
    "Row",
    "begin",
    "check_same_data",
    "example_message",
    "findings",
    "findings_in",
    "headings",
    "is_quickstart",
    "plan",
    "quickstart_page",
]
