"""Names of folders as people type them."""

from pathlib import Path


def expanded(path: Path | str) -> Path:
    """The path with ``~`` as the home folder; as a shell does, an unknown ``~name`` stays as it is."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)
