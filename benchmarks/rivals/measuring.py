"""What a command takes, with every process that it starts: wall time, CPU time, and memory at its peak (Linux)."""

import ctypes
import os
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

EVERY = 0.25  # seconds between two looks at the memory, at least
SHARE = 0.05  # of one core, that looking may take
_ADOPT_ORPHANS = 36  # PR_SET_CHILD_SUBREAPER: daemons that a command leaves become this process's children


@dataclass(frozen=True)
class Taken:
    """``peak_memory_bytes``: the largest sum of PSS, in which a page that processes share counts once."""

    wall_seconds: float
    cpu_seconds: float
    peak_memory_bytes: int
    processes: int  # at most at a time


def measured(command: Sequence[str], folder: Path, environment: Mapping[str, str], log: Path) -> Taken:
    """Run the command to its end; processes that outlive it by ten seconds are ended.

    Raises RuntimeError, which names the log, where it fails.
    """
    if ctypes.CDLL(None).prctl(_ADOPT_ORPHANS, 1, 0, 0, 0):
        raise RuntimeError("this process cannot adopt the daemons of a command; benchmarks beside rivals need Linux")
    before = _cpu_of_children()
    watch = _Watch()
    with log.open("wb") as output:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=folder, env=dict(environment), stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        watch.start()
        code = process.wait()
        wall = time.perf_counter() - started
    watch.finish()
    _end_orphans(seconds=10.0)
    if code:
        raise RuntimeError(f"'{' '.join(command)}' ended with {code}; see {log}")
    return Taken(wall, _cpu_of_children() - before, watch.peak, watch.processes)


def _cpu_of_children() -> float:
    """User and system seconds of all processes below this one that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _end_orphans(seconds: float) -> None:
    """Wait for the processes that a command left, then end them."""
    until = time.perf_counter() + seconds
    while below := descendants(os.getpid()):
        if time.perf_counter() > until:
            for pid in below:
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.05)


def descendants(pid: int) -> list[int]:
    """The processes below this one."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:  # it ended meanwhile
                continue
            children.setdefault(parent, []).append(int(folder.name))
    found, waiting = [], [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def memory(pids: Sequence[int]) -> int:
    """Bytes of PSS of these processes together."""
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:  # it ended meanwhile
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total


class _Watch(threading.Thread):
    """Looks at the memory of all processes below this one."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = self.processes = 0
        self._over = threading.Event()

    def run(self) -> None:
        pause = EVERY
        while not self._over.wait(pause):
            started = time.thread_time()
            below = descendants(os.getpid())
            self.peak, self.processes = max(self.peak, memory(below)), max(self.processes, len(below))
            pause = max(EVERY, (time.thread_time() - started) / SHARE)

    def finish(self) -> None:
        self._over.set()
        self.join()
