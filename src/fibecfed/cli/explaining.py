"""What every command does around its work: reads settings, and turns errors into a sentence and an exit code."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from fibecfed.commands import at_a_shell, command_line
from fibecfed.config import Config, load_config, split_arguments
from fibecfed.data.told import told_by_columns
from fibecfed.errors import FibecFedError, InputError, in_sentences
from fibecfed.interruption import interruptible
from fibecfed.screen import flush_output, plain_console, say, show_any_character

errors = plain_console(stderr=True)

INTERRUPTED = 130


@contextmanager
def explained(directory: Path | None = None) -> Iterator[None]:
    """Turn the errors a user can cause into one sentence and an exit code; Ctrl-C into where things stand.

    ``directory`` is that of a run which can be gone on with.
    """
    show_any_character()
    try:
        with interruptible(), at_a_shell(), in_sentences():
            try:
                yield
            finally:
                flush_output()
    except FibecFedError as error:
        errors.print(f"Error: {error}", style="red", soft_wrap=True)
        if error.exit_code == 1 and (again := _how_to_go_on(directory)):
            say(errors, f"What was done is kept; go on with: {again}")
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        again = _how_to_go_on(directory)
        say(errors, f"Interrupted. Go on with: {again}" if again else "Interrupted.")
        raise typer.Exit(INTERRUPTED) from None


def _how_to_go_on(directory: Path | None) -> str | None:
    begun = directory is not None and os.path.isfile(directory / "config.yaml")
    return command_line("run", "--resume", directory) if directory is not None and begun else None


def read_arguments(arguments: list[str]) -> Config:
    """The configuration of ``[CONFIG.yaml] [KEY=VALUE ...]``."""
    files, settings = split_arguments(arguments)
    if len(files) > 1:
        raise InputError(
            f"Only one configuration file can be given, not {', '.join(files)}; overrides have the form KEY=VALUE."
        )
    return told_by_columns(load_config(files[0] if files else None, settings))
