"""Worker processes: the longest work first, what dies is replaced, and nothing outlives the process that began them."""

import logging
import os
import select
import signal
import time
from collections.abc import Callable, Iterator

import pytest
import torch

from fibecfed.results import peak_memory_bytes
from fibecfed.training.parcels import Parcels
from fibecfed.training.worker_process import Serve
from fibecfed.training.workers import Work, Workers

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="worker processes need Linux")

Pool = Callable[..., Workers]


@pytest.fixture
def pool() -> Iterator[Pool]:
    """Makes workers with what answers a message, and ends them."""
    made: list[Workers] = []

    def make(serve: Serve, count: int = 1, threads: int = 1) -> Workers:
        made.append(Workers(count, threads, lambda: serve))
        return made[-1]

    yield make
    for workers in made:
        workers.close()


def given(workers: Workers, message: bytes, cost: float = 1.0) -> Work:
    work = Work(message, cost, f"device {message.decode()}")
    workers.give(work)
    return work


def gone(pid: int) -> bool:
    """Whether a process has ended, within a few seconds."""
    for _ in range(500):
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rsplit(")", 1)[1].split()[0] in "ZX":
                    return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.01)
    return False


def now(message: bytes) -> bytes:
    return str(time.monotonic()).encode()


def test_of_what_waits_the_longest_is_begun_first(pool: Pool) -> None:
    workers = pool(now)
    first, short, long, middle = (given(workers, b"1", cost) for cost in (1.0, 1.0, 3.0, 2.0))
    times = [float(workers.finish(work) or "nan") for work in (first, long, middle, short)]
    assert times == sorted(times)


def die_of_two(message: bytes) -> bytes:
    if message == b"2":
        os.kill(os.getpid(), signal.SIGKILL)
    return message


def test_work_whose_process_dies_twice_has_no_answer_and_the_others_have(
    pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    workers = pool(die_of_two, count=2)
    works = [given(workers, str(number).encode()) for number in range(5)]
    with caplog.at_level(logging.WARNING):
        assert [workers.finish(work) for work in works] == [b"0", b"1", None, b"3", b"4"]
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert all("was killed by signal 9" in line and "device 2" in line for line in told)
    assert "begins that work again" in told[0]


@pytest.mark.parametrize("which", [0, 1], ids=["template", "worker"])
def test_processes_that_die_between_two_pieces_of_work_are_replaced(pool: Pool, which: int) -> None:
    workers = pool(lambda message: message)
    assert workers.finish(given(workers, b"1")) == b"1"
    before = workers.pids
    os.kill(before[which], signal.SIGKILL)
    assert gone(before[1])
    assert workers.finish(given(workers, b"2")) == b"2"
    assert workers.pids[1] != before[1]


def test_closed_workers_are_gone_and_can_begin_again(pool: Pool) -> None:
    workers = pool(lambda message: message, count=2)
    workers.finish(given(workers, b"1"))
    pids = workers.pids
    workers.close()
    assert all(map(gone, pids))
    assert workers.finish(given(workers, b"2")) == b"2"


def _sleeps(message: bytes) -> bytes:
    time.sleep(60)
    return message


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=["kill -9", "kill", "Ctrl-C"])
def test_no_process_outlives_the_one_that_began_it(how: signal.Signals) -> None:
    here, there = os.pipe()
    parent = os.fork()
    if not parent:  # stands for a run
        try:
            workers = Workers(2, 1, lambda: _sleeps)
            works = [given(workers, name) for name in (b"1", b"2")]
            os.write(there, " ".join(map(str, workers.pids)).encode())
            workers.finish(works[0])
        finally:
            os._exit(1)  # without any cleaning up
    assert select.select([here], [], [], 60)[0]
    pids = [int(pid) for pid in os.read(here, 1000).split()]
    os.kill(parent, how)
    os.waitpid(parent, 0)
    os.close(here)
    os.close(there)
    assert len(pids) == 3
    assert all(map(gone, pids))


def test_threads_that_torch_has_used_before_stop_no_worker(pool: Pool) -> None:
    before = torch.get_num_threads()
    values = torch.linspace(0, 1, 1 << 18)

    def adds(message: bytes) -> bytes:
        return f"{torch.get_num_threads()} {float(torch.exp(values).sum())}".encode()

    try:
        torch.set_num_threads(2)
        wanted = adds(b"")
        workers = pool(adds, threads=2)
        assert workers.finish(given(workers, b"1")) == wanted
        assert adds(b"") == wanted
    finally:
        torch.set_num_threads(before)


def test_memory_counts_every_process_and_shared_pages_once(pool: Pool) -> None:
    shared = torch.ones(1 << 24)  # 64 MiB, forked with the workers

    def takes(message: bytes) -> bytes:
        return str(float(torch.ones(1 << 24).sum() + shared[0])).encode()

    workers = pool(takes, count=2)
    workers.finish(given(workers, b"1"))
    least = peak_memory_bytes(workers.pids)
    works = [given(workers, b"1") for _ in range(8)]
    for work in works:
        workers.finish(work)
    most = peak_memory_bytes(workers.pids)
    assert peak_memory_bytes() < least  # one worker has already taken its part
    assert most - least < 3 * 2**26  # not another copy of what is shared, and of what one process takes only one


def test_parcels_hold_every_bit_and_no_more_than_is_meant() -> None:
    whole = torch.randn(1000, 1000)
    known = {"a": 1}
    content = [whole[3:5, ::7], whole[0, 0], torch.empty(0, 3), torch.tensor([1, 2]), torch.randn(3).bfloat16(), known]
    packer = Parcels([known])
    parcel = packer.pack(content)
    opened = packer.open(parcel)
    assert len(parcel) < 3000
    assert opened[-1] is known
    for one, other in zip(content[:-1], opened[:-1], strict=True):
        assert isinstance(one, torch.Tensor)
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
