"""What `report` does: report.html of whatever lies in a directory."""

from pathlib import Path

from rich.console import Console

from fibecfed.cli.comparison_command import report
from fibecfed.config import expanded
from fibecfed.errors import InputError
from fibecfed.quickstart import is_quickstart, quickstart_page
from fibecfed.report import write_page, write_run_report
from fibecfed.screen import say


def write_again(directory: Path, console: Console) -> None:
    """Raises InputError if it is no run, quick start or comparison, or nothing of it has ended."""
    folder = expanded(directory)
    if (folder / "comparison.json").is_file():
        report(directory, console)
    elif is_quickstart(folder):
        say(console, f"To look at: {write_page(quickstart_page(folder), folder)}")
    elif (folder / "config.yaml").is_file():
        say(console, f"To look at: {write_run_report(folder)}")
    else:
        raise InputError(
            f"'{directory}' is not the directory of a comparison (it has no comparison.json), of a run (no "
            "config.yaml) or of a quick start (no recipe.yaml); give what was its --out."
        )
