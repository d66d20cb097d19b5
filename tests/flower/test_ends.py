"""No process outlives the one that started it, and a folder is free again at once."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="needs the extra `flower`")

from typer.testing import CliRunner

from fibecfed import InputError
from fibecfed.cli.app import app
from fibecfed.flower.certificates import write_certificates
from fibecfed.flower.gate import listening
from fibecfed.flower.locks import only_one
from fibecfed.flower.processes import free_port, running

FLOWER = """\
import os, pathlib, signal, sys, threading, time
def goodbye(*_):
    pathlib.Path("bye").touch()
    sys.exit(0)
signal.signal(signal.SIGTERM, goodbye)
threading.Thread(target=time.sleep, args=(120,)).start()  # as Flower's server does
pathlib.Path("pid.tmp").write_text(str(os.getpid()))
os.rename("pid.tmp", "pid")
time.sleep(120)
"""


def eventually(happened: Callable[[], bool], seconds: float = 20.0) -> bool:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if happened():
            return True
        time.sleep(0.05)
    return False


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for a program of Flower's."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flower").write_text(FLOWER)
    return tmp_path / "flower"


def test_a_command_that_is_killed_leaves_nothing_and_starts_again_at_once(script: Path, tmp_path: Path) -> None:
    command = os.fork()
    if not command:
        with only_one(tmp_path / "own", "device 0") as lock, running([str(script)], tmp_path, [lock]):
            time.sleep(120)
    try:
        assert eventually((tmp_path / "pid").exists)
        flower = int((tmp_path / "pid").read_text())
        started = time.monotonic()
        with (
            pytest.raises(InputError, match=rf"in use: device 0 runs already \(process {command}\)"),
            only_one(tmp_path / "own", "device 0"),
        ):
            pass
        assert time.monotonic() - started < 2  # seconds: nothing to wait for
        assert alive(flower)
    finally:
        os.kill(command, signal.SIGKILL)
        os.waitpid(command, 0)
    with only_one(tmp_path / "own", "device 0"):
        assert (tmp_path / "bye").exists()  # Flower's server was told
    assert eventually(lambda: not alive(flower))


def test_a_program_whose_main_thread_has_ended_ends(script: Path, tmp_path: Path) -> None:
    script.write_text(FLOWER.replace("time.sleep(120)\n", "") + "sys.exit(3)\n")
    with running([str(script)], tmp_path) as process:
        assert process.wait(30) == 3


def test_a_second_server_is_refused_at_once_and_leaves_the_first_alone(tmp_path: Path) -> None:
    write_certificates(tmp_path / "server", ["localhost"], 1)
    words = ["flower", "server", "--server", str(tmp_path / "server"), "--host", "127.0.0.1"]
    port = free_port()
    with listening("127.0.0.1", port):
        taken = CliRunner().invoke(app, [*words, "--port", str(port)])
    with only_one(tmp_path / "server", "a server"):
        again = CliRunner().invoke(app, [*words, "--port", str(free_port())])
    assert taken.exit_code == again.exit_code == 2
    assert f"127.0.0.1:{port} cannot be listened at: Address already in use" in taken.output
    assert "a server runs already" in again.output
    assert not (tmp_path / "server" / "flwr").exists()  # what tells `flower run` where the first one is
