"""What `report` does: report.html of whatever lies in a directory, the tables of a log."""

from pathlib import Path

from rich.console import Console

from fibecfed.cli.comparison_command import report
from fibecfed.comparison import tables_of
from fibecfed.comparison.spec import REFERENCE
from fibecfed.config import expanded
from fibecfed.errors import InputError
from fibecfed.quickstart import findings_in, is_quickstart, quickstart_page
from fibecfed.report import write_page, write_run_report
from fibecfed.screen import say


def write_again(directory: Path, console: Console) -> None:
    """Raises InputError if it is no run, quick start or comparison, or nothing of it has ended."""
    folder = expanded(directory)
    if (folder / "comparison.json").is_file():
        report(directory, console)
    elif is_quickstart(folder):
        say(console, f"To look at: {write_page(quickstart_page(findings_in(folder)), folder)}")
    elif (folder / "config.yaml").is_file():
        say(console, f"To look at: {write_run_report(folder)}")
    else:
        raise InputError(
            f"'{directory}' is not the directory of a comparison (it has no comparison.json), of a run (no "
            "config.yaml) or of a quick start (no recipe.yaml); give what was its --out."
        )


def log_tables(log: Path, reference: str | None, console: Console) -> None:
    """Print the tables of a comparison's log against a variant. Raises InputError as ``tables_of``."""
    for table in tables_of(log, reference or REFERENCE):
        console.print(table.markdown(), highlight=False, markup=False, soft_wrap=True)
