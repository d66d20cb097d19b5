"""The two ways a run can go wrong, with the exit code of each, and what the system refuses in such words."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager


class FibecFedError(Exception):
    """A failure explained in one sentence; the command line prints it without a traceback."""

    exit_code = 1


class InputError(FibecFedError):
    """What the user gave (configuration, file, arguments) cannot be used. Exit code 2."""

    exit_code = 2


class RunFailed(FibecFedError):
    """A run started and could not be finished (NaN loss, too few replies, a full disk). Exit code 1."""

    exit_code = 1


@contextmanager
def in_sentences() -> Iterator[None]:
    """Raise what the system refuses and what is no text as InputError or RunFailed; everything else as it is.

    A pipe whose reader has gone away is nobody's mistake, and stays a BrokenPipeError.
    """
    try:
        yield
    except (FibecFedError, BrokenPipeError):
        raise
    except UnicodeError as error:
        raise InputError(_of_text(error)) from error
    except Exception as error:
        found = _system_error(error)
        if found is None:
            raise
        raise _of_system(found) from error


def half_character(text: str) -> str | None:
    """The first code point of a text that is no character, such as half an emoji; None if there is none."""
    found = _SURROGATE.search(text)
    return None if found is None else f"{_code_point(found[0])}, half of a character such as an emoji cut in two"


_SURROGATE = re.compile("[\ud800-\udfff]")
_BYTES = range(0xDC80, 0xDD00)  # where Python keeps bytes of names and arguments that are no UTF-8
_RUST = re.compile(r"\(os error (\d+)\)")  # safetensors and tokenizers raise errors of their own
_AROUND = 20  # characters of a text, to find it by
_LONGEST = 60

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_INPUT = {
    errno.ENOENT: "does not exist",
    errno.EISDIR: "is a folder, where a file is needed",
    errno.EEXIST: "is in the way: it exists already",
    errno.ENOTEMPTY: "is in the way: it is a folder that holds something",
    errno.EACCES: "may not be used (permission denied); change its permissions, or name another place",
    errno.EPERM: "may not be used (not permitted); change its permissions, or name another place",
    errno.EROFS: "lies on a read-only file system; name another place",
    errno.ELOOP: "is a link that leads to itself",
    errno.EBUSY: "is in use by the system, such as a mount point; name a folder inside it",
}


def _system_error(error: Exception) -> OSError | None:
    if isinstance(error, OSError):
        return error
    found = _RUST.search(str(error))
    return None if found is None else OSError(int(found[1]), os.strerror(int(found[1])))


def _of_system(error: OSError) -> FibecFedError:
    if error.errno is None:  # a library's own words
        return InputError(" ".join(str(error).split()))
    path = _as_text(error.filename2 or error.filename)
    named = f"'{_shortened(path)}'" if path else "A file"
    if error.errno in _FULL:
        return RunFailed(f"There is no room left on the disk{f' for {named}' if path else ''}; make room.")
    if error.errno == errno.ENAMETOOLONG:
        return InputError(f"The name {named} is too long for the file system; use a shorter one.")
    if error.errno == errno.ENOTDIR:
        return InputError(f"{named} cannot be used: a part of this path is a file, not a folder{_blocking(path)}.")
    if error.errno in _INPUT:
        return InputError(f"{named} {_INPUT[error.errno]}.")
    return RunFailed(f"{error.strerror or error}{f' ({named})' if path else ''}.")


def _as_text(name: object) -> str:
    return "" if name is None else os.fsdecode(name) if isinstance(name, str | bytes | os.PathLike) else str(name)


def _shortened(path: str) -> str:
    """A name that cannot be shown whole is shown by its ends."""
    longest = max(path.split(os.sep), key=len)
    return path if len(longest) <= _LONGEST else path.replace(longest, f"{longest[:_AROUND]}...{longest[-_AROUND:]}")


def _blocking(path: str) -> str:
    """Which part it is."""
    parts = path.split(os.sep)
    above = (os.sep.join(parts[:count]) for count in range(1, len(parts)))
    found = next((part for part in above if os.path.isfile(part)), None)
    return "" if found is None else f" ('{_shortened(found)}')"


def _of_text(error: UnicodeError) -> str:
    if isinstance(error, UnicodeDecodeError):
        near = error.object[max(0, error.start - _AROUND) : error.start].decode("utf-8", errors="replace")
        return (
            f"A text is not UTF-8: it has the byte {error.object[error.start]:#04x} at position {error.start} (behind "
            f"{near!r}); save it as UTF-8."
        )
    if not isinstance(error, UnicodeEncodeError):
        return " ".join(str(error).split())
    wrong = error.object[error.start]
    near = ascii(error.object[max(0, error.start - _AROUND) : error.start + _AROUND])
    if ord(wrong) in _BYTES:
        return f"The text {near} has the byte {ord(wrong) - 0xDC00:#04x}, which is no UTF-8; write it as UTF-8."
    if (half := half_character(wrong)) is not None:
        return f"The text {near} has {half}; remove it, or write the whole character."
    return (
        f"The text {near} cannot be written in the encoding '{error.encoding}' that is set here; "
        "set PYTHONUTF8=1 to use UTF-8."
    )


def _code_point(character: str) -> str:
    return f"\\u{ord(character):04x}"
