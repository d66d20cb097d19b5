"""What the system refuses and what is no text is a sentence; what looks like an instruction is shown as it is."""

import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

import fibecfed
from fibecfed.cli import running
from fibecfed.cli.app import app
from fibecfed.cli.explaining import explained
from fibecfed.cli.tables import partition_table, summary_table
from fibecfed.config import Config
from fibecfed.data import Partition
from fibecfed.errors import FibecFedError, InputError, RunFailed, in_sentences
from fibecfed.screen import plain_console

HALF = '{"text": "sad today \\ud83d", "label": "neg"}\n{"text": "great", "label": "pos"}\n'


def told(error: Exception) -> FibecFedError:
    with pytest.raises(FibecFedError) as raised, in_sentences():
        raise error
    assert "\n" not in str(raised.value) and "Errno" not in str(raised.value)
    return raised.value


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (errno.ENOSPC, RunFailed, "There is no room left on the disk for 'runs/x'; make room."),
        (errno.EDQUOT, RunFailed, "no room left"),
        (errno.EFBIG, RunFailed, "no room left"),
        (errno.EROFS, InputError, "'runs/x' lies on a read-only file system; name another place."),
        (errno.EACCES, InputError, "'runs/x' may not be used (permission denied)"),
        (errno.EPERM, InputError, "'runs/x' may not be used"),
        (errno.ENAMETOOLONG, InputError, "The name 'runs/x' is too long for the file system"),
        (errno.ENOTDIR, InputError, "a part of this path is a file"),
        (errno.EEXIST, InputError, "'runs/x' is in the way"),
        (errno.EISDIR, InputError, "'runs/x' is a folder"),
        (errno.ENOENT, InputError, "'runs/x' does not exist"),
        (errno.ELOOP, InputError, "a link that leads to itself"),
        (errno.EBUSY, InputError, "mount point"),
        (errno.EIO, RunFailed, "Input/output error ('runs/x')."),
    ],
)
def test_what_the_system_refuses_is_a_sentence(number: int, kind: type[FibecFedError], words: str) -> None:
    error = told(OSError(number, os.strerror(number), "runs/x"))
    assert type(error) is kind and words in str(error)
    library = told(RuntimeError(f"Error while serializing: I/O error (os error {number})"))  # as safetensors says it
    assert type(library) is kind
    assert told(OSError("a library's\n own words")).args == ("a library's own words",)


def test_real_refusals_name_their_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError) as in_the_way:  # noqa: PT011 - its kind is what is told below
        (tmp_path / "file" / "a" / "b").mkdir(parents=True)
    assert f"('{tmp_path / 'file'}')" in str(told(in_the_way.value))
    with pytest.raises(OSError) as too_long:  # noqa: PT011
        (tmp_path / ("n" * 300)).write_text("x")
    assert len(str(told(too_long.value))) < 300 + len(str(tmp_path))


@pytest.mark.parametrize(
    ("failing", "words"),
    [
        (lambda: "a \ud83d b".encode(), r"The text 'a \ud83d b' has \ud83d, half of a character such as an emoji"),
        (lambda: "caf\udce9".encode(), "has the byte 0xe9, which is no UTF-8"),
        (lambda: "é".encode("ascii"), r"The text '\xe9' cannot be written in the encoding 'ascii'"),
        (lambda: b"caf\xe9 noir".decode(), "A text is not UTF-8: it has the byte 0xe9 at position 3 (behind 'caf')"),
    ],
)
def test_what_is_no_text_is_a_sentence(failing: Any, words: str) -> None:
    with pytest.raises(InputError) as raised, in_sentences():
        failing()
    assert words in str(raised.value)
    str(raised.value).encode("ascii")  # and can be printed


def test_mistakes_of_ours_and_closed_pipes_stay_what_they_are() -> None:
    for error in (ZeroDivisionError("x"), BrokenPipeError(errno.EPIPE, "x"), KeyError("os error 28")):
        with pytest.raises(type(error)), in_sentences():
            raise error


def test_after_a_full_disk_the_hint_says_how_to_go_on(
    small: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "my run"

    def fail(*_: Any, **__: Any) -> None:
        out.mkdir()
        (out / "config.yaml").write_text("seed: 1\n")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(running, "run", fail)
    result = CliRunner().invoke(app, ["run", "--out", str(out)])
    assert result.exit_code == 1
    assert "There is no room left on the disk; make room." in result.output
    assert f"fibecfed run --resume '{out}'" in result.output


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["run", "n" * 300 + ".yaml", "--out", "o"], 2, "is too long for the file system"),
        (["run", "data.file=" + "n" * 300 + ".csv", "--out", "o"], 2, "is too long for the file system"),
        (["predict", "file/below", "x"], 2, "is not the directory of a run"),
        (["partition", "data.file=half.jsonl"], 2, r"'half.jsonl' row 1 has \ud83d, half of a character"),
        (["partition", "latin.yaml"], 2, "'latin.yaml' is not valid YAML: the byte 0xe9 in line 1 is no UTF-8"),
        (["partition", "[/x].yaml"], 2, "Configuration file '[/x].yaml' does not exist."),
        (["partition", "data.file=[red].csv"], 2, "[red].csv"),
    ],
)
def test_commands_tell_it(
    arguments: list[str], code: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    (tmp_path / "half.jsonl").write_text(HALF)
    (tmp_path / "latin.yaml").write_bytes(b"method: caf\xe9\n")
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "300"})
    assert result.exit_code == code, result.output
    assert words in result.output
    assert "Traceback" not in result.output and isinstance(result.exception, SystemExit)


@contextmanager
def output_as(encoding: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[io.BytesIO]:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
    yield written


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_console_that_lacks_a_character_shows_its_number(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {"text": "caf\u00e9 \U0001f600 \u4e2d", "half": "\ud83d"}
    with output_as(encoding, monkeypatch) as written, explained():
        print(json.dumps(texts, ensure_ascii=False))
        plain_console().print("\u4e2d \u2014 \u00e9")
    first, second = written.getvalue().decode(encoding).splitlines()
    assert json.loads(first) == texts
    assert second in ("\u4e2d \u2014 \u00e9", r"\u4e2d \u2014 é", r"\u4e2d \u2014 \u00e9")


def test_a_full_standard_output_is_a_sentence_and_no_more() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "fibecfed", "config"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert done.returncode == 1
    assert done.stderr == "Error: There is no room left on the disk; make room.\n"


NAMES = ("[red]", "[/x]", ":warning:", "[bold]a[/bold]", "\\[x]", "[link=x]")


def test_names_are_shown_as_they_are() -> None:
    screen = plain_console()
    screen.file = io.StringIO()
    screen.width = 200
    owned = Partition(np.arange(len(NAMES)), np.arange(len(NAMES) + 1), NAMES)
    screen.print(partition_table(owned, np.arange(len(NAMES)), NAMES))
    accuracies = {"accuracy": {"global": 0.5, "personalized": 1}, "worst_tenth": 0}
    summary = {
        "method": "fibecfed", "dataset": "[/x]", "evaluated_on": "test", "metric": "accuracy",
        **accuracies,
        "mean": {"evaluations": 1, **accuracies},
        "bytes": {"up": 0, "down": 0}, "examples_trained": 1, "examples_scored": 1,
        "seconds": {"cpu": 1, "simulated": 1}, "lost": {"replies": 1, "by_kind": {"[red]": 1}, "states": []},
    }  # fmt: skip
    screen.print(summary_table(summary))
    shown = screen.file.getvalue()
    for name in NAMES:
        assert shown.count(name) >= 2, name
    assert "fibecfed on [/x] (test set)" in shown and "1 ([red] 1)" in shown


def test_every_console_shows_text_as_it_is() -> None:
    """rich's own Console takes [red] for an instruction; it is made in one place."""
    source = Path(fibecfed.__file__).parent
    makers = [path.name for path in source.rglob("*.py") if " Console(" in path.read_text()]
    assert makers == ["screen.py"]
    assert isinstance(plain_console(), Console)


def test_what_a_library_makes_of_an_interruption_is_one(capfd: pytest.CaptureFixture[str]) -> None:
    def load() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise ModuleNotFoundError("Could not import module") from None

    with pytest.raises(typer.Exit) as ended, explained():
        load()
    assert ended.value.exit_code == 130
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert capfd.readouterr().err == "Interrupted.\n"
    with pytest.raises(ModuleNotFoundError), explained():
        raise ModuleNotFoundError("a mistake of ours")


@pytest.mark.parametrize("seconds", [0.15, 0.4, 0.8])
def test_interrupted_while_it_loads_is_one_line(seconds: float) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "fibecfed", "run", "--dry-run"], stderr=subprocess.PIPE, text=True
    )
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert said == "Interrupted.\n"
    # A shell shows both as 130; Python takes the second where the interrupt passed through an exec() of a library.
    assert process.returncode in (130, -signal.SIGINT)
