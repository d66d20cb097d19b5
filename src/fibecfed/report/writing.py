"""Writing report.html, and what happens to a run whose report cannot be written: nothing but a sentence."""

from collections.abc import Callable
from pathlib import Path

from fibecfed.commands import command_line
from fibecfed.errors import RunFailed
from fibecfed.federation import write_atomically
from fibecfed.report.page import Page
from fibecfed.report.run_page import run_page
from fibecfed.results import REPORT_FILE, RunDirectory


def write_page(page: Page, folder: Path) -> Path:
    """``folder``/report.html, atomically. Raises RunFailed where it cannot be written."""
    path = folder / REPORT_FILE
    try:
        write_atomically(path, page.html().encode("utf-8", errors="replace"))
    except OSError as error:
        raise RunFailed(f"'{path}' could not be written: {error.strerror}.") from None
    return path


def write_run_report(directory: Path) -> Path:
    """The report of a run that has ended. Raises InputError as ``run_page``, RunFailed as ``write_page``."""
    return write_page(run_page(RunDirectory.open(directory)), directory)


def leave_report(write: Callable[[], object], directory: Path, say: Callable[[str], None]) -> None:
    """Write a report at the end of something that must not fail by it: where it fails, ``say`` is told why."""
    try:
        write()
    except Exception as error:
        reason = str(error).rstrip(".") or "no reason is given"
        say(
            f"The results in '{directory}' are complete, but {REPORT_FILE} was not written ({type(error).__name__}: "
            f"{reason}). Try again with: {command_line('report', directory)}"
        )
