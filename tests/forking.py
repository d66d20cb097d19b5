"""Processes as `python -m fibecfed ...` starts them, forked from one that has imported torch and transformers before.

Each is a process of its own in all that tests use: number, group, signals, exit code, folder, environment, output. It
imports fibecfed itself. What is saved is five seconds of libraries; tests of starting itself use `subprocess`.
"""

import atexit
import gc
import importlib
import json
import os
import random
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import types
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from io import BufferedWriter, FileIO, TextIOWrapper
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT, CompletedProcess, TimeoutExpired
from typing import IO, Any

_LIBRARIES = (
    "matplotlib.backends.backend_agg", "matplotlib.figure", "packaging.requirements", "peft",
    "peft.utils.transformers_weight_conversion", "pyarrow.csv", "pyarrow.json", "pyarrow.parquet",
    "pydantic.dataclasses", "rich.progress", "rich.table", "safetensors.torch", "torch.utils.flop_counter",
    "transformers.models.bert.modeling_bert", "transformers.models.llama.modeling_llama", "typer", "yaml",
)  # fmt: skip
_LONGEST = 1 << 20  # bytes of one order; a command and an environment


class Popen:
    """As `subprocess.Popen([sys.executable, *words], text=True, ...)`.

    ``words`` are `-m MODULE ...`, `-c CODE ...` or `FILE ...`; standard input is empty.
    """

    def __init__(
        self,
        words: Sequence[str],
        *,
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        start_new_session: bool = False,
    ) -> None:
        self.args = list(words)
        self.returncode: int | None = None
        self.stdout, out = _channel(stdout, 1)
        self.stderr, err = (None, os.dup(out)) if stderr == STDOUT else _channel(stderr, 2)
        self._ended, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        order = {
            "words": self.args, "cwd": os.fspath(cwd or os.getcwd()),
            "env": dict(os.environ if env is None else env), "session": start_new_session,
        }  # fmt: skip
        with there:
            try:
                socket.send_fds(_server(), [json.dumps(order).encode()], [out, err, there.fileno()])
            finally:
                os.close(out)
                os.close(err)
        self.pid = int(self._heard())

    def _heard(self) -> bytes:
        return self._ended.recv(64)

    def poll(self) -> int | None:
        with suppress(TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self._ended.settimeout(None if timeout is None else max(timeout, 1e-6))
            try:
                heard = self._heard()
            except (TimeoutError, BlockingIOError):
                raise TimeoutExpired(self.args, timeout or 0) from None
            assert heard, "the process that forks others is gone"
            self.returncode = int(heard)
            self._ended.close()
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str | None, str | None]:
        """All that is still to be read from what was given as PIPE, after the process has ended."""
        ends = None if timeout is None else time.monotonic() + timeout
        streams = {"stdout": self.stdout, "stderr": self.stderr}
        said = {name: bytearray() for name, stream in streams.items() if stream is not None}
        with selectors.DefaultSelector() as open_ones:
            for name in said:
                open_ones.register(streams[name].buffer, selectors.EVENT_READ, name)  # type: ignore[union-attr]
            while open_ones.get_map():
                left = None if ends is None else ends - time.monotonic()
                if left is not None and left <= 0:
                    raise TimeoutExpired(self.args, timeout or 0)
                for key, _ in open_ones.select(left):
                    read = key.fileobj.read1(65536)  # type: ignore[union-attr]
                    said[key.data] += read
                    if not read:
                        open_ones.unregister(key.fileobj)
        for stream in streams.values():
            if stream is not None:
                stream.close()
        self.wait(None if ends is None else max(0.0, ends - time.monotonic()))
        texts = {name: text.decode().replace("\r\n", "\n") for name, text in said.items()}
        return texts.get("stdout"), texts.get("stderr")

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run(
    words: Sequence[str],
    *,
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float | None = None,
) -> CompletedProcess[str]:
    """As `subprocess.run([sys.executable, *words], capture_output=True, text=True, ...)`."""
    process = Popen(words, stdout=PIPE, stderr=PIPE, cwd=cwd, env=env)
    try:
        said, errors = process.communicate(timeout)
    except BaseException:
        process.kill()
        raise
    assert process.returncode is not None
    return CompletedProcess(list(words), process.returncode, said, errors)


def _channel(wanted: int | IO[Any] | None, own: int) -> tuple[IO[str] | None, int]:
    """This side of an output (None: there is none), and the file descriptor that the process gets."""
    if wanted == PIPE:
        here, there = os.pipe()
        return open(here, encoding="utf-8"), there
    if wanted is None:
        return None, os.dup(own)
    if wanted == DEVNULL:
        return None, os.open(os.devnull, os.O_RDWR)
    assert not isinstance(wanted, int)
    return None, os.dup(wanted.fileno())


@lru_cache(maxsize=1)
def _server() -> socket.socket:
    """The connection to the process that forks; it ends with this one."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    here.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LONGEST)
    one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    environment = os.environ | one | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    with there:
        process = subprocess.Popen(
            [sys.executable, "-P", __file__, str(there.fileno())], pass_fds=[there.fileno()], stdin=DEVNULL,
            env=environment,
        )  # fmt: skip

    def end() -> None:
        here.close()
        process.wait()

    atexit.register(end)
    return here


# What follows runs in the process that forks.


def _serve(orders: socket.socket) -> None:
    """Fork for every order, and tell whoever gave it the number of the process and, once it ended, its exit code."""
    woken, wake = os.pipe()
    for end in (woken, wake):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    at_work: dict[int, socket.socket] = {}
    with selectors.DefaultSelector() as heard:
        heard.register(orders, selectors.EVENT_READ)
        heard.register(woken, selectors.EVENT_READ)
        while True:
            for key, _ in heard.select():
                if key.fileobj is not orders:
                    os.read(woken, 4096)
                    _bury(at_work)
                    continue
                order, given, _, _ = socket.recv_fds(orders, _LONGEST, 3)
                if not order:
                    return
                teller = socket.socket(fileno=given[2])
                number = os.fork()
                if number == 0:
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    for other in (orders, teller, *at_work.values()):
                        other.close()
                    heard.close()
                    os.close(woken)
                    os.close(wake)
                    os._exit(_carry_out(json.loads(order), given[:2]))
                os.close(given[0])
                os.close(given[1])
                teller.sendall(str(number).encode())
                at_work[number] = teller


def _bury(at_work: dict[int, socket.socket]) -> None:
    while at_work:
        number, status = os.waitpid(-1, os.WNOHANG)
        if not number:
            return
        with at_work.pop(number) as teller, suppress(OSError):
            teller.sendall(str(os.waitstatus_to_exitcode(status)).encode())


def _carry_out(order: dict[str, Any], outputs: list[int]) -> int:
    """What Python does with its command line, in a process that was just forked; its exit code."""
    if order["session"]:
        os.setsid()
    for number, given in enumerate(outputs, start=1):
        os.dup2(given, number)
        os.close(given)
    out, err = FileIO(1, "w", closefd=False), FileIO(2, "w", closefd=False)
    sys.stdout = sys.__stdout__ = TextIOWrapper(BufferedWriter(out), "utf-8")
    sys.stderr = sys.__stderr__ = TextIOWrapper(BufferedWriter(err), "utf-8", "backslashreplace", line_buffering=True)
    os.environ.clear()
    os.environ.update(order["env"])
    os.chdir(order["cwd"])
    random.seed()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    code = 1
    try:
        code = _python(order["words"])
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        traceback.print_exc()
    with suppress(BaseException):  # as Python does at its end
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    return code


def _python(words: list[str]) -> int:
    if words[0] == "-m":
        sys.argv = words[1:]
        sys.path.insert(0, os.getcwd())
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        sys.argv = ["-c", *words[2:]]
        sys.path.insert(0, "")
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(words[1], "<string>", "exec"), main.__dict__)
    else:
        sys.argv = words
        sys.path.insert(0, str(Path(words[0]).resolve().parent))
        runpy.run_path(words[0], run_name="__main__")
    return 0


if __name__ == "__main__":
    for name in _LIBRARIES:
        importlib.import_module(name)
    assert "fibecfed" not in sys.modules
    gc.freeze()
    _serve(socket.socket(fileno=int(sys.argv[1])))
    os._exit(0)
