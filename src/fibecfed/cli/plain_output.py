"""No colour codes in a log file: what this process and those it starts write is plain where it is no terminal."""

import os
import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

_CODE = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")
_BEGUN = re.compile(rb"\x1b(\[[0-9;?]*)?$")  # of a code that goes on in the next piece
_LAST_WORDS = 2.0  # seconds that a process that outlives this one may still write


@contextmanager
def plain_output() -> Iterator[None]:
    """Inside, standard output and standard error lose their colour codes, but on a terminal without NO_COLOR.

    Flower colours its log lines wherever they go, and has no setting for it.
    """
    with ExitStack() as stack:
        for descriptor in (1, 2):
            if "NO_COLOR" in os.environ or not os.isatty(descriptor):
                stack.enter_context(_plain(descriptor))
        yield


@contextmanager
def _plain(descriptor: int) -> Iterator[None]:
    target = os.dup(descriptor)
    reading, writing = os.pipe()
    os.dup2(writing, descriptor)
    os.close(writing)
    copying = threading.Thread(target=_copy, args=(reading, target), daemon=True)
    copying.start()
    try:
        yield
    finally:
        os.dup2(target, descriptor)  # closes this process's end of the pipe
        copying.join(_LAST_WORDS)


def _copy(reading: int, target: int) -> None:
    held = b""
    try:
        while piece := os.read(reading, 2**16):
            text = _CODE.sub(b"", held + piece)
            begun = _BEGUN.search(text)
            held = text[begun.start() :] if begun else b""
            _write(target, text[: len(text) - len(held)])
        _write(target, held)
    except BrokenPipeError:
        pass  # nobody reads any more; with this end closed, writers find out as they would have without it
    finally:
        os.close(reading)
        os.close(target)


def _write(target: int, data: bytes) -> None:
    while data:
        data = data[os.write(target, data) :]
