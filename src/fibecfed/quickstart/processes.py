"""Runs side by side, each in a fresh process of its own."""

import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from fibecfed.config import Config, to_dict
from fibecfed.errors import InputError

WORKER = (sys.executable, "-m", "fibecfed.quickstart.worker")
_PATIENCE = 10.0  # seconds that a process which was asked to end gets, before it is killed


@dataclass(frozen=True)
class Task:
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

    def progressed(self, task: Task, event: dict[str, Any]) -> None:
        """A phase has ended: ``round``, ``rounds``, ``loss``, ``megabytes``, ``accuracy`` (None: not evaluated)."""

    def ended(self, task: Task, reason: str | None) -> None:
        """The run is over; ``reason`` says why it failed."""


def run_side_by_side(tasks: Sequence[Task], jobs: int, report: Report, seconds: float | None = None) -> dict[str, str]:
    """Run what is not done yet, at most ``jobs`` at a time; the reasons of those that failed, by name.

    After ``seconds`` the runs that are still going are ended. A failed run does not stop the others. Ctrl-C
    (KeyboardInterrupt) ends all processes before it is passed on.
    Raises InputError if a process finds that its input cannot be used.
    """
    crew = _Crew(report)
    with ThreadPoolExecutor(jobs) as pool:
        futures = {task.name: pool.submit(crew.run, task) for task in tasks if not task.done}
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

    def __init__(self, report: Report) -> None:
        self._report = report
        self._lock = threading.Lock()
        self._processes: set[subprocess.Popen[str]] = set()
        self._stopped = False

    def run(self, task: Task) -> str | None:
        """One run from start to end; why it failed, or None. Raises InputError if its input cannot be used."""
        task.directory.parent.mkdir(parents=True, exist_ok=True)
        with task.log.open("w", encoding="utf-8") as log:
            process = self._start(log.fileno())
            error, code = (None, None) if process is None else self._follow(process, task)
        if code == 0 or error is not None or self._stopped:
            task.log.unlink()
        if self._stopped or code is None:
            return None
        if code == InputError.exit_code and error is not None:
            raise InputError(error)
        reason = None if code == 0 else error or _unexplained(code, task.log)
        with self._lock:
            self._report.ended(task, reason)
        return reason

    def _start(self, log: int) -> "subprocess.Popen[str] | None":
        with self._lock:
            if self._stopped:
                return None
            process = subprocess.Popen(
                WORKER,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, encoding="utf-8",
                start_new_session=True,  # Ctrl-C reaches the parent alone, which ends the others
            )  # fmt: skip
            self._processes.add(process)
            return process

    def _follow(self, process: "subprocess.Popen[str]", task: Task) -> tuple[str | None, int]:
        """Pass on what the process says until it ends; its error, if it explained one, and its exit code."""
        assert process.stdin is not None
        assert process.stdout is not None
        order = {"config": to_dict(task.config), "directory": str(task.directory), "resume": task.begun}
        error = None
        try:
            with suppress(BrokenPipeError):  # it died at once; the exit code and the log say why
                process.stdin.write(json.dumps(order) + "\n")
                process.stdin.flush()  # and stays open: its end tells the process that this one is gone
            for line in process.stdout:
                event = json.loads(line)
                if "error" in event:
                    error = str(event["error"])
                else:
                    with self._lock:
                        self._report.progressed(task, event)
            return error, process.wait()
        finally:
            with self._lock:
                self._processes.discard(process)
            with suppress(BrokenPipeError):
                process.stdin.close()
            process.stdout.close()

    def stop(self) -> None:
        """End every process; runs are written atomically, so what was done can be gone on with."""
        with self._lock:
            self._stopped = True
            processes = list(self._processes)
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()


def _unexplained(code: int, log: Path) -> str:
    ended = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    memory = " (9 often means that memory ran out; try --jobs 1)" if code == -9 else ""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    last = f"; its last words: {lines[-1].strip()}" if lines else ""
    return f"its process {ended}{memory}{last}; see {log}"
