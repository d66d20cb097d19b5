"""What messages tell a reader to type: command lines that can be pasted, or Python where Python was used."""

import importlib.metadata
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from packaging.requirements import Requirement

_NAME = "fibecfed"
_at_a_shell = False  # of the whole process: threads that explain something speak to the same reader


@contextmanager
def at_a_shell() -> Iterator[None]:
    """Within it ``advice`` speaks of command lines, not of Python."""
    global _at_a_shell
    before, _at_a_shell = _at_a_shell, True
    try:
        yield
    finally:
        _at_a_shell = before


def advice(shell: str, python: str) -> str:
    """What the reader can do: ``shell`` for the user of a command, ``python`` for the caller of a function."""
    return shell if _at_a_shell else python


def command_line(*arguments: str | Path) -> str:
    """The line that calls fibecfed with these arguments, quoted for a shell; paths are to be given as Path."""
    return shlex.join([*_program(), *map(_as_argument, arguments)])


def going_on(directory: Path | str) -> str:
    """What goes on with the run in ``directory``."""
    return advice(command_line("run", "--resume", Path(directory)), f"fibecfed.resume({str(directory)!r})")


def pip_install(*requirements: str) -> str:
    """The line that installs these packages where this process looks for them."""
    beside = Path(sys.executable).with_name("pip")
    pip = ["pip"] if shutil.which("pip") == str(beside) else [sys.executable, "-m", "pip"]
    return shlex.join([*pip, "install", *requirements])


def extra_install(extra: str) -> str:
    """The line that installs what an extra of fibecfed brings; it works from any folder, without a checkout."""
    try:
        found = [Requirement(text) for text in importlib.metadata.requires(_NAME) or []]
    except importlib.metadata.PackageNotFoundError:  # run from its sources
        found = []
    wanted = [r for r in found if r.marker and r.marker.evaluate({"extra": extra}) and not r.marker.evaluate()]
    if not wanted:
        return pip_install(f".[{extra}]") + ", in the checkout of fibecfed"
    return pip_install(*(f"{r.name}{_extras(r)}{r.specifier}" for r in wanted))


def _extras(requirement: Requirement) -> str:
    return f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""


def _as_argument(argument: str | Path) -> str:
    """A path that begins with "-" would be taken for an option."""
    text = str(argument)
    return f"./{text}" if isinstance(argument, Path) and text.startswith("-") else text


def _program() -> list[str]:
    """How the user reaches this very installation: by name where PATH finds it, else as it was started."""
    started = Path(sys.argv[0] if sys.argv else "")
    script = started if started.name == _NAME and started.is_file() else Path(sys.executable).with_name(_NAME)
    if os.access(script, os.X_OK):
        on_path = shutil.which(_NAME)
        if on_path is not None and os.path.samefile(on_path, script):
            return [_NAME]
        if started.name != "__main__.py":
            return [str(_as_argument(script))]
    python = next((name for name in ("python", "python3") if shutil.which(name) == sys.executable), sys.executable)
    return [python, "-m", _NAME]
