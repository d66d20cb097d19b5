"""Processes, at most so many at a time. They are forked from a server that has imported everything once."""

import multiprocessing
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

from fibecfed.config import Config, to_dict
from fibecfed.errors import InputError
from fibecfed.side_by_side import worker
from fibecfed.training import cores_here

_PATIENCE = 10.0  # seconds that a process which was asked to end gets, before it is killed
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
WORK = worker.carry_out


@dataclass(frozen=True)
class WantedRun:
    """One run: its directory, and what is there already."""

    name: str
    config: Config
    directory: Path
    done: bool = False
    begun: bool = False

    @property
    def log(self) -> Path:
        """What the process wrote to its standard error; kept when it ended without an explanation."""
        return self.directory.with_name(f"{self.directory.name}.log")


class Report(Protocol):
    """Is told how the runs go, one call at a time."""

    def progressed(self, wanted: WantedRun, event: dict[str, Any]) -> None:
        """A stage has ended: ``round``, ``rounds``, ``loss``, ``megabytes``, ``score`` (None: not evaluated)."""

    def ended(self, wanted: WantedRun, reason: str | None) -> None:
        """The run is over; ``reason`` says why it failed."""


def run_side_by_side(
    runs: Sequence[WantedRun], jobs: int, report: Report, seconds: float | None = None
) -> dict[str, str]:
    """Run what is not done yet, at most ``jobs`` at a time; the reasons of those that failed, by name.

    After ``seconds`` the runs that are still going are ended. A failed run does not stop the others. Ctrl-C
    (KeyboardInterrupt) ends all processes before it is passed on.
    Raises InputError if a process finds that its input cannot be used.
    """
    wanted_now = sum(not wanted.done for wanted in runs)
    crew = _Crew(report, max(1, cores_here() // max(1, min(jobs, wanted_now))))
    threads = max((wanted.config.runtime.threads for wanted in runs), default=1)
    with _few_threads(threads), ThreadPoolExecutor(jobs) as pool:
        futures = {wanted.name: pool.submit(crew.run, wanted) for wanted in runs if not wanted.done}
        try:
            finished, late = wait(futures.values(), timeout=seconds, return_when=FIRST_EXCEPTION)
            reasons = {name: future.result() for name, future in futures.items() if future in finished}
            if late:
                crew.stop()
        except BaseException:
            crew.stop()
            raise
    return {name: reason for name, reason in reasons.items() if reason is not None}


class _Crew:
    """The processes at work."""

    def __init__(self, report: Report, cores: int) -> None:
        self._report = report
        self._cores = cores  # of each run, for its own workers
        self._lock = threading.Lock()
        self._processes: set[BaseProcess] = set()
        self._stopped = False

    def run(self, wanted: WantedRun) -> str | None:
        """One run from start to end; why it failed, or None. Raises InputError if its input cannot be used."""
        wanted.directory.parent.mkdir(parents=True, exist_ok=True)
        started = self._start(wanted)
        if started is None:
            return None
        error, code = self._follow(*started, wanted)
        if code == 0 or error is not None or self._stopped:
            wanted.log.unlink(missing_ok=True)
        if self._stopped:
            return None
        if code == InputError.exit_code and error is not None:
            raise InputError(error)
        reason = None if code == 0 else error or _unexplained(code, wanted.log)
        with self._lock:
            self._report.ended(wanted, reason)
        return reason

    def _start(self, wanted: WantedRun) -> tuple[BaseProcess, Connection] | None:
        order = {"config": to_dict(wanted.config), "directory": str(wanted.directory), "resume": wanted.begun}
        order["cores"] = self._cores
        context = _context()
        with self._lock:
            if self._stopped:
                return None
            here, there = context.Pipe()
            process = context.Process(target=_work, args=(WORK, order, str(wanted.log), there))
            process.start()
            there.close()  # so that its end is seen when the process is gone
            self._processes.add(process)
            return process, here

    def _follow(self, process: BaseProcess, events: Connection, wanted: WantedRun) -> tuple[str | None, int]:
        """Pass on what the process says until it ends; its error, if it explained one, and its exit code."""
        error = None
        try:
            with suppress(EOFError, ConnectionError):
                while True:
                    event = events.recv()
                    if "error" in event:
                        error = str(event["error"])
                    else:
                        with self._lock:
                            self._report.progressed(wanted, event)
            process.join()
            assert process.exitcode is not None  # it was waited for
            return error, process.exitcode
        finally:
            with self._lock:
                self._processes.discard(process)
            events.close()

    def stop(self) -> None:
        """End every process; runs are written atomically, so what was done can be gone on with."""
        with self._lock:
            self._stopped = True
            processes = list(self._processes)
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(_PATIENCE)
            if process.exitcode is None:
                process.kill()


def _context() -> Any:
    """Processes forked from a server that has imported what a run needs; where there is none, fresh ones."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([f"{worker.__package__}.preloaded"])
    return context


def _work(work: Any, order: Mapping[str, Any], log: str, parent: Connection) -> None:
    worker.settle(log, parent)
    work(order, parent)


@contextmanager
def _few_threads(threads: int) -> Iterator[None]:
    """Libraries beside torch use as many threads as torch (``runtime.threads``), so that runs do not compete."""
    before = {name: os.environ.get(name) for name in (*_THREAD_VARIABLES, "TOKENIZERS_PARALLELISM")}
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, str(threads)) | {"TOKENIZERS_PARALLELISM": "false"})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _unexplained(code: int, log: Path) -> str:
    ended = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    memory = " (9 often means that memory ran out; try --jobs 1)" if code == -9 else ""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    last = f"; its last words: {lines[-1].strip()}" if lines else ""
    return f"its process {ended}{memory}{last}; see {log}"
