"""What a command says of the data beside its tables. Imports no torch, which takes seconds that a mistake need not."""

from collections.abc import Sequence

from rich.console import Console

from fibecfed.config import Config
from fibecfed.data import load_splits


def check_data(config: Config) -> None:
    """Read the data once before everything else is imported, for the mistakes in it. Raises InputError.

    Not where it may have to be fetched first.
    """
    if config.data.file is not None or not config.data.allow_download:
        load_splits(config)


def say_notes(notes: Sequence[str], console: Console) -> None:
    """A line for each."""
    for note in notes:
        console.print(f"Note: {note}", style="yellow", highlight=False, markup=False, soft_wrap=True)
