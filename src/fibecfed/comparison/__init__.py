"""`fibecfed compare` and `fibecfed report`: what is compared, how it is run, and the tables."""

from fibecfed.comparison.log import tables_of, write_log
from fibecfed.comparison.page import comparison_page
from fibecfed.comparison.reading import load_spec
from fibecfed.comparison.report import Report, build_report, write_report
from fibecfed.comparison.running import Comparison, Outcome, Watcher
from fibecfed.comparison.spec import Spec

__all__ = [
    "Comparison",
    "Outcome",
    "Report",
    "Spec",
    "Watcher",
    "build_report",
    "comparison_page",
    "load_spec",
    "tables_of",
    "write_log",
    "write_report",
]
