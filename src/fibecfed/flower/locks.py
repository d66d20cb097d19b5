"""Who is at work on what: the locks die with the processes that hold them."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fibecfed.errors import InputError

_LEFT_OVER = 15.0  # seconds in which Flower's process has ended after a command that was killed


@contextmanager
def only_one(folder: Path, what: str) -> Iterator[int]:
    """Hold ``folder`` for this process; yields a descriptor for the process of Flower's that works in it, too.

    ``what`` it is the folder of, for the message. Raises InputError at once if another command holds it. Of a command
    that was killed Flower's process may live for some seconds more; that is waited for.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / "lock", 0.0, what) as mine:
        os.truncate(mine, 0)
        os.pwrite(mine, f"{os.getpid()}\n".encode(), 0)
        with _locked(folder / "flower.lock", _LEFT_OVER, f"Flower's part of {what}") as theirs:
            yield theirs


@contextmanager
def _locked(path: Path, seconds: float, what: str) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    ends = time.monotonic() + seconds
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= ends:
                    who = path.read_text(encoding="utf-8").strip()
                    raise InputError(
                        f"'{path.parent}' is in use: {what} runs already{f' (process {who})' if who else ''}. "
                        "Stop it first, or use another folder."
                    ) from None
                time.sleep(0.1)
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def announced(folder: Path, what: str) -> Iterator[list[str]]:
    """Say in ``folder`` that this process is at work on ``what``; yields what others are at work on.

    A process that was killed is not among them, and what it left is removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    own = folder / f"{os.getpid()}"
    descriptor = os.open(own, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.write(descriptor, what.encode())
        yield [found for path in sorted(folder.iterdir()) if path != own and (found := _holder(path)) is not None]
    finally:
        own.unlink(missing_ok=True)
        os.close(descriptor)


def _holder(path: Path) -> str | None:
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:  # it has ended since it was listed
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
    except BlockingIOError:
        return path.read_text(encoding="utf-8")
    finally:
        os.close(descriptor)
    return None
