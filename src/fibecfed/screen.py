"""What is printed for people: as it is, whatever names and texts hold, on any terminal, in any encoding."""

import codecs
import os
import sys

from rich.console import Console

_ESCAPES = "fibecfed.escapes"


def plain_console(stderr: bool = False) -> Console:
    """A console that takes neither ``[red]`` nor ``:warning:`` in a name for an instruction, and colours no numbers."""
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False)


def log_console() -> Console:
    """The same for a log that another process reads: never wrapped, never coloured."""
    return Console(width=120, soft_wrap=True, force_terminal=False, markup=False, emoji=False, highlight=False)


def say(console: Console, text: str) -> None:
    """A text in one piece: a wrapped path or command could not be pasted."""
    console.print(text, soft_wrap=True)


def show_any_character() -> None:
    """Let standard output and error show what their encoding lacks as ``\\u00e9``, which JSON has for it, too."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=_ESCAPES)


def _escaped(error: UnicodeError) -> tuple[str, int]:
    """Characters as JSON writes them; those beyond 16 bits are two."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", errors="surrogatepass")
    pairs = (units[i : i + 2].hex() for i in range(0, len(units), 2))
    return "".join(f"\\u{pair}" for pair in pairs), error.end


def flush_output() -> None:
    """Write what is still held back. Raises OSError where that fails; nothing is held back then that fails again."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


codecs.register_error(_ESCAPES, _escaped)
