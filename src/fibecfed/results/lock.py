"""One writer for a run's directory: a lock that its process cannot leave behind."""

import fcntl
import os
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fibecfed.errors import InputError

LOCK_FILE = ".lock"
_PATIENCE = 2.0  # seconds: a process that was killed a moment ago may still be ending
_held = threading.local()


@contextmanager
def only_writer(path: Path) -> Iterator[None]:
    """Hold the directory of a run, which is made if need be, until the block ends or the process dies.

    A thread that holds it already just goes on. Raises InputError if another process (or thread) is writing there, or
    if nothing can be written there.
    """
    mine: set[Path] = _held.__dict__.setdefault("paths", set())
    where = path.resolve()
    if where in mine:
        yield
        return
    try:
        path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise InputError(f"Nothing can be written in '{path}': {error.strerror}.") from None
    try:
        _lock(descriptor, path)
        mine.add(where)
        try:
            yield
        finally:
            mine.discard(where)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: Path) -> None:
    ends = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() < ends:
                time.sleep(0.05)
                continue
            who = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
            by = f" (process {who})" if who else ""
            raise InputError(
                f"A run is being written in '{path}' by another process{by}; wait until it has ended, or stop it."
            ) from None
        except OSError as error:
            warnings.warn(
                f"'{path}' lies on a file system without locks ({error.strerror}): see to it that no other process "
                "goes on with this run.",
                stacklevel=4,
            )
            return
    with suppress(OSError):  # a full disk: the number only serves the sentence above
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
