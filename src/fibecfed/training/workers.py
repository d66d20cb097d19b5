"""Worker processes: messages are dealt to them, the longest work first, and what dies is replaced."""

import heapq
import itertools
import logging
import os
import signal
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import Pipe, reduction
from multiprocessing.connection import Connection, wait

from fibecfed.errors import RunFailed
from fibecfed.training.worker_process import FORK, REAP, Serve, begin_template

_log = logging.getLogger(__name__)
_PATIENCE = 60.0  # seconds that a new worker gets to say that it is ready
_TRIES = 2  # processes that may die of one piece of work


@dataclass
class Work:
    """A message for a worker and, once it was done, its answer."""

    message: bytes
    cost: float  # in any unit; only compared
    about: str  # for sentences: "device 7"
    answer: bytes | None = None
    deaths: list[str] = field(default_factory=list)  # how the processes ended that had it

    @property
    def over(self) -> bool:
        """Whether there is an answer, or will be none."""
        return self.answer is not None or len(self.deaths) >= _TRIES


@dataclass(eq=False)
class _Worker:
    pid: int
    template: int  # that it was forked from, and ends with
    connection: Connection
    work: Work | None = None


@dataclass
class _Processes:
    """What has to end with the pool."""

    owner: int
    template: tuple[int, Connection] | None = None
    workers: list[_Worker] = field(default_factory=list)

    def end(self) -> None:
        """At once: nobody waits for what they do. Only in the process that began them."""
        if os.getpid() != self.owner or self.template is None:
            return
        pid, connection = self.template
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)  # its workers go with it
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)
        for open_connection in (connection, *(worker.connection for worker in self.workers)):
            open_connection.close()
        self.template, self.workers = None, []


class Workers:
    """So many processes, forked with the first work; Linux only. ``make`` and ``threads``: see ``begin_template``.

    They end with ``close``, with this object, and with this process, however it ends.
    """

    def __init__(self, count: int, threads: int, make: Callable[[], Serve]) -> None:
        self.count = count
        self._threads, self._make = threads, make
        self._processes = _Processes(os.getpid())
        self._waiting: list[tuple[float, int, Work]] = []
        self._numbers = itertools.count()
        self._end = weakref.finalize(self, self._processes.end)

    @property
    def pids(self) -> list[int]:
        """Of all processes there are, the template first."""
        template = self._processes.template
        return ([] if template is None else [template[0]]) + [worker.pid for worker in self._processes.workers]

    def close(self) -> None:
        """End the processes; work that is not done stays undone. The next work begins new ones."""
        self._processes.end()
        self._waiting = []

    def give(self, work: Work) -> None:
        """Queue it; it is begun when a worker is free and no longer work waits."""
        heapq.heappush(self._waiting, (-work.cost, next(self._numbers), work))
        self._deal()

    def finish(self, work: Work) -> bytes | None:
        """Wait for its answer; None where the process that had it died, and that of the second try, too."""
        while not work.over:
            self._deal()
            workers = {worker.connection: worker for worker in self._processes.workers}
            for connection in wait(list(workers)):
                worker = workers[connection]  # type: ignore[index]
                try:
                    answer = worker.connection.recv_bytes()
                except (EOFError, OSError):
                    self._replace(worker)
                    continue
                assert worker.work is not None
                worker.work.answer, worker.work = answer, None
        return work.answer

    def _deal(self) -> None:
        """The longest work that waits, to each process that has none."""
        while self._waiting and len(self._processes.workers) < self.count:
            self._processes.workers.append(self._begun())
        for worker in list(self._processes.workers):
            if not self._waiting:
                return
            if worker.work is not None or worker.connection.poll():  # what an idle one has to say is that it died
                continue
            worker.work = heapq.heappop(self._waiting)[2]
            with suppress(OSError):  # found out where its answer is read
                worker.connection.send_bytes(worker.work.message)

    def _replace(self, worker: _Worker) -> None:
        """Another process in the place of one that died; its work goes back, once."""
        how = self._how_it_ended(worker)
        worker.connection.close()
        self._processes.workers.remove(worker)
        if worker.work is None:
            _log.warning("Worker process %d %s while it had nothing to do; another takes its place.", worker.pid, how)
        else:
            work, worker.work = worker.work, None
            work.deaths.append(how)
            again = "another takes its place and begins that work again" if not work.over else "as the one before"
            _log.warning("Worker process %d %s at the work of %s; %s.", worker.pid, how, work.about, again)
            if not work.over:
                self.give(work)
        if self._waiting:
            self._deal()

    def _how_it_ended(self, worker: _Worker) -> str:
        template = self._processes.template
        status = None
        if template is not None and template[0] == worker.template:
            with suppress(EOFError, OSError):
                status = self._ask(REAP, worker.pid)
        if status is None:
            return "ended together with the process it was forked from"
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            memory = " (memory may have run out)" if number == signal.SIGKILL else ""
            return f"was killed by signal {number}{memory}"
        return f"ended with exit code {os.waitstatus_to_exitcode(status)}"

    def _begun(self) -> _Worker:
        """A new process that is ready. Raises RunFailed if it does not come to that."""
        here, there = Pipe()
        try:
            pid = self._fork(there)
        finally:
            there.close()
        if not here.poll(_PATIENCE):
            problem = f"it said nothing for {_PATIENCE:.0f} s"
        else:
            try:
                problem = here.recv_bytes().decode()
            except (EOFError, OSError):
                problem = "it died"
        if problem:
            self.close()
            raise RunFailed(f"A worker process could not begin: {problem}. Set runtime.workers=1, which needs none.")
        assert self._processes.template is not None
        return _Worker(pid, self._processes.template[0], here)

    def _fork(self, connection: Connection) -> int:
        if self._processes.template is not None:
            with suppress(EOFError, OSError):
                return int(self._ask(FORK, 0, connection))
            self._forget_template()
        self._processes.template = begin_template(self._make, self._threads)
        return int(self._ask(FORK, 0, connection))

    def _forget_template(self) -> None:
        assert self._processes.template is not None
        pid, connection = self._processes.template
        connection.close()
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)
        self._processes.template = None

    def _ask(self, order: str, about: int, handed: Connection | None = None) -> int:
        assert self._processes.template is not None
        pid, template = self._processes.template
        template.send((order, about))
        if handed is not None:
            reduction.send_handle(template, handed.fileno(), pid)
        return int(template.recv())
