"""The children's side of worker processes: a template that never computes, and workers forked from it.

Forked, and not begun afresh: backbone and texts are then shared as they lie, whatever model it is, and a second import
of torch and transformers (0.3 GB a process) is saved. Three things make that sound with torch on a CPU:

- GNU OpenMP hangs in a child of a process whose threads it has used. The parent ends those threads first
  (``omp_pause_resource_all``); OpenMP makes new ones when they are needed, with the same results.
- Workers are forked from the template, which has one thread and runs no model. So a worker can be replaced at any
  time, whatever threads its grandparent has by then.
- Before it takes work a worker tries what could go wrong: an operation on all its threads and a backward pass.
"""

import ctypes
import gc
import os
import signal
import sys
import warnings
from collections.abc import Callable
from multiprocessing import Pipe, reduction
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

import torch

Serve = Callable[[bytes], bytes]

FORK, REAP = "fork", "reap"
_PR_SET_PDEATHSIG = 1
_ENOUGH_FOR_ALL_THREADS = 1 << 18  # entries; torch splits an operation from 2^15 on


def begin_template(make: Callable[[], Serve], threads: int) -> tuple[int, Connection]:
    """Fork the template; its process id, and the connection on which it takes orders.

    ``make`` is called in each worker, which then answers every message with what it returns. ``threads``: of torch.
    Orders are (FORK, 0) with a handle behind it, answered with the worker's process id, and (REAP, id), answered with
    the wait status of that worker. The template ends with its parent, and the workers with the template.
    """
    here, there = Pipe()
    _end_openmp_threads()
    with warnings.catch_warnings():
        # Python 3.12 and later warn of any other thread; none of those here holds what a child needs.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if not pid:
        _in_child(lambda: _template(there, make, threads))
    there.close()
    return pid, here


def _in_child(live: Callable[[], object]) -> NoReturn:
    """Nothing of the parent's may happen in a child: no cleaning up, no flushing of what the parent will write."""
    code = 1
    try:
        live()
        code = 0
    except (EOFError, BrokenPipeError, ConnectionResetError):
        code = 0  # the parent is gone
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


def _template(orders: Connection, make: Callable[[], Serve], threads: int) -> None:
    gc.freeze()  # a collection would run the parent's finalizers, and copy every page that it looks at
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which then ends this process
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _close_all_but(orders.fileno())
    while True:
        order, about = orders.recv()
        if order == REAP:
            orders.send(os.waitpid(about, 0)[1])
            continue
        mine = Connection(reduction.recv_handle(orders))
        template = os.getpid()
        pid = os.fork()
        if not pid:
            orders.close()
            _in_child(lambda: _worker(template, mine, make, threads))  # noqa: B023 - called at once
        mine.close()
        orders.send(pid)


def _worker(template: int, parent: Connection, make: Callable[[], Serve], threads: int) -> None:
    """Say with an empty message that it is ready, or why not; then answer each message until the parent is gone."""
    _end_with(template)
    torch.set_num_threads(threads)
    try:
        _try_out()
        serve = make()
    except Exception as error:
        parent.send_bytes(f"{type(error).__name__}: {error}".encode())
        return
    parent.send_bytes(b"")
    while True:
        parent.send_bytes(serve(parent.recv_bytes()))


def _try_out() -> None:
    ones = torch.ones(_ENOUGH_FOR_ALL_THREADS, requires_grad=True)
    torch.exp(ones).sum().backward()


def _end_with(parent: int) -> None:
    """Linux kills this process when its parent ends, however that ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before it was asked
        os._exit(0)


def _close_all_but(kept: int) -> None:
    """Files that the parent has open, such as the lock on its directory, are not held beyond its end."""
    for name in os.listdir("/proc/self/fd"):
        number = int(name)
        if number > 2 and number != kept:
            try:
                os.close(number)
            except OSError:  # that of the listing itself
                continue


def _end_openmp_threads() -> None:
    """Ask each GNU or Intel OpenMP that is loaded to end its threads."""
    for library in _loaded("libgomp", "libiomp"):
        pause: Any = getattr(ctypes.CDLL(library), "omp_pause_resource_all", None)  # OpenMP 5.0
        if pause is not None:
            pause(1)  # omp_pause_soft: settings such as the number of threads stay


def _loaded(*names: str) -> set[str]:
    lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    paths = (line.split(maxsplit=5)[5] for line in lines if len(line.split(maxsplit=5)) == 6)
    return {path for path in paths if Path(path).name.startswith(names)}
