"""What every command does around its work: reads settings, and turns errors into a sentence and an exit code."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.console import Console

from fibecfed.commands import at_a_shell, command_line
from fibecfed.config import Config, load_config, split_arguments
from fibecfed.errors import FibecFedError, InputError

errors = Console(stderr=True)

INTERRUPTED = 130


@contextmanager
def explained(directory: Path | None = None) -> Iterator[None]:
    """Turn the errors a user can cause into one sentence and an exit code; Ctrl-C into where things stand."""
    try:
        with at_a_shell():
            yield
    except FibecFedError as error:
        errors.print(f"Error: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        if directory is not None and error.exit_code == 1 and (directory / "config.yaml").is_file():
            again = command_line("run", "--resume", directory)
            errors.print(f"What was done is kept; go on with: {again}", markup=False, soft_wrap=True)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        message = "Interrupted."
        if directory is not None and (directory / "config.yaml").is_file():
            message += f" Go on with: {command_line('run', '--resume', directory)}"
        errors.print(message, markup=False, soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from None


def read_arguments(arguments: list[str]) -> Config:
    """The configuration of ``[CONFIG.yaml] [KEY=VALUE ...]``."""
    files, settings = split_arguments(arguments)
    if len(files) > 1:
        raise InputError(
            f"Only one configuration file can be given, not {', '.join(files)}; overrides have the form KEY=VALUE."
        )
    return load_config(files[0] if files else None, settings)
