"""An executor that spreads devices' jobs, and the passes of an evaluation, over worker processes."""

import logging
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from fibecfed.data import TokenizedSet
from fibecfed.errors import RunFailed
from fibecfed.training.executor import Resident, SequentialExecutor
from fibecfed.training.job import (
    AnswerJob,
    CountJob,
    CurvatureJob,
    DeviceFailed,
    FeaturesJob,
    Job,
    PassJob,
    Result,
    ScoreJob,
    TrainJob,
)
from fibecfed.training.parcels import CannotBeSent, Parcels
from fibecfed.training.worker_process import Serve
from fibecfed.training.workers import Work, Workers

_log = logging.getLogger(__name__)
_AHEAD = 8  # jobs at hand for each worker: enough to deal the longest first, few enough to be held in memory
_PARTS = 4  # of an evaluation's passes, for each worker
_LEAST_TOKENS = 256  # of passes that are worth sending


class SpreadExecutor(SequentialExecutor):
    """``workers`` processes do what one would, with the same bits; results come in the order of the jobs.

    What reads vectors that are known here (``Features``) stays here, and so do jobs that cannot leave their process.
    ``sets``: the sets of texts that jobs may name. A job whose process dies is begun again; when that one dies, too,
    it is its device's failure.
    """

    def __init__(self, resident: Resident, workers: int, sets: Sequence[TokenizedSet] = ()) -> None:
        processes = workers + 1  # this one keeps states of jobs that stay here
        super().__init__(resident, processes)
        self.width = _AHEAD * workers
        self._parcels = Parcels([self.data, *(one for one in sets if one is not self.data)])
        make = partial(_serving, self._parcels, partial(SequentialExecutor, resident, processes))
        self._workers = Workers(workers, self.config.runtime.threads, make)
        self._cpu_seconds = 0.0
        self._told = False

    @property
    def processes(self) -> Sequence[int]:
        return self._workers.pids

    def cpu_seconds(self) -> float:
        return time.process_time() + self._cpu_seconds

    def close(self) -> None:
        self._workers.close()

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Result | DeviceFailed]]:
        """At most ``width`` jobs are taken ahead of the result that is given next."""
        waiting, taken = iter(jobs), deque[tuple[Job, Work | None]]()
        while True:
            while len(taken) < self.width and (job := next(waiting, None)) is not None:
                taken.append((job, self._begun(job)))
            if not taken:
                return
            job, work = taken.popleft()
            try:
                yield job, self.result(job) if work is None else self._found(job, work)
            except DeviceFailed as failure:
                yield job, failure

    def passed(
        self, tensors: Mapping[str, Tensor], data: TokenizedSet, batches: Sequence[np.ndarray], read: str
    ) -> Iterator[Any]:
        """In the same batches as in one process, so in the same bits."""
        parts = _parts(batches, data.lengths, _PARTS * self._workers.count)
        if len(parts) < 2:
            yield from super().passed(tensors, data, batches, read)
            return
        jobs: Any = (PassJob(tensors, data, part, read) for part in parts)  # type: ignore[arg-type]
        for _, found in self.results(jobs):
            yield from found.parts

    def _begun(self, job: Job) -> Work | None:
        """The job on its way; None if it stays here."""
        if isinstance(job, CountJob | FeaturesJob) and self.features.is_shared(job.tensors):
            return None
        try:
            message = self._parcels.pack(job)
        except CannotBeSent as error:
            self._stays(error)
            return None
        work = Work(
            message, cost_of(job, self.data), "the evaluation" if job.device is None else f"device {job.device}"
        )
        self._workers.give(work)
        return work

    def _found(self, job: Job, work: Work) -> Any:
        answer = self._workers.finish(work)
        if answer is None:
            why = f"its worker process {' and the one after it '.join(work.deaths)}"
            raise RunFailed(f"A part of the evaluation failed: {why}.") if job.device is None else DeviceFailed(why)
        kind, content, seconds = self._parcels.open(answer)
        self._cpu_seconds += seconds
        if kind == "unread":
            self._stays(content)
            return self.result(job)
        if kind == "raised":
            raise content
        return content

    def _stays(self, why: object) -> None:
        if not self._told:
            _log.warning("Jobs of this method run in one process, since they cannot be sent to another (%s).", why)
            self._told = True


def cost_of(job: Job, data: TokenizedSet) -> float:
    """Passes over tokens, a backward pass for two: only compared. ``data`` is the training set."""
    if isinstance(job, TrainJob):
        lengths = data.lengths_within(job.max_tokens)
        before = 0.0 if job.before is None else cost_of(job.before, data)
        return before + 3.0 * sum(len(batch) * int(lengths[batch].max()) for batch in job.batches)
    if isinstance(job, PassJob):
        return float(sum(len(batch) * int(job.data.lengths[batch].max()) for batch in job.batches))
    tokens = float((job.data if isinstance(job, CountJob | AnswerJob) else data).lengths[job.indices].sum())
    if isinstance(job, ScoreJob):
        return 3.0 * tokens
    return tokens * (6.0 * job.steps if isinstance(job, CurvatureJob) else 1.0)


def _parts(batches: Sequence[np.ndarray], lengths: np.ndarray, most: int) -> list[list[np.ndarray]]:
    """The batches in their order, in at most so many parts of about the same number of tokens, none tiny."""
    tokens = [len(batch) * int(lengths[batch].max()) for batch in batches]
    wanted = max(_LEAST_TOKENS, sum(tokens) / most)
    parts: list[list[np.ndarray]] = []
    inside = wanted
    for batch, size in zip(batches, tokens, strict=True):
        if inside >= wanted:
            parts.append([])
            inside = 0.0
        parts[-1].append(batch)
        inside += size
    return parts


def _serving(parcels: Parcels, make: Callable[[], SequentialExecutor]) -> Serve:
    """In a worker process: an executor of its own, and what answers a message with it."""
    executor = make()

    def serve(message: bytes) -> bytes:
        started = time.process_time()
        kind, content = _carried_out(executor, parcels, message)
        return parcels.pack((kind, content, time.process_time() - started))

    return serve


def _carried_out(executor: SequentialExecutor, parcels: Parcels, message: bytes) -> tuple[str, Any]:
    try:
        job = parcels.open(message)
    except Exception as error:
        return "unread", f"{type(error).__name__}: {error}"
    try:
        return "done", executor.result(job)
    except Exception as error:
        return "raised", _sendable(error, parcels)


def _sendable(error: Exception, parcels: Parcels) -> Exception:
    """The error, with where it happened as a note, if it survives being sent; else one that says what it was."""
    try:
        parcels.open(parcels.pack(error))
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.add_note("In a worker process:\n" + traceback.format_exc())
    return error
