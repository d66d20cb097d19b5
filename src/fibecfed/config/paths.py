"""What every setting that names a file or folder has in common."""

import os
from pathlib import Path

from pydantic import AfterValidator


def from_home(path: str) -> str:
    """The path with the home folder in place of a leading ``~`` or ``~user``; an unknown user's stays as it is."""
    return os.path.expanduser(path)


def expanded(path: Path | str) -> Path:
    """The same for a path that an argument names."""
    return Path(from_home(str(path)))


def _all_from_home(value: str | list[str] | None) -> str | list[str] | None:
    if isinstance(value, list):
        return [from_home(path) for path in value]
    return None if value is None else from_home(value)


HOME = AfterValidator(_all_from_home)  # to be put beside the Field of every setting that is a path
