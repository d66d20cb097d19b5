"""An executor that trains several devices in one pass, and one after another where that cannot be."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from fibecfed.training.executor import Resident, SequentialExecutor
from fibecfed.training.job import DeviceFailed, Job, LocalResult, Result, TrainJob
from fibecfed.training.judging import TrainingCounts
from fibecfed.training.local import batch_sizes
from fibecfed.training.probing import why_not_stacked
from fibecfed.training.stacked import CannotStack, StackedParameters
from fibecfed.training.together import train_together
from fibecfed.tuning import put_tensors

_log = logging.getLogger(__name__)
_AHEAD = 2  # cohorts at hand, so that devices with about as many steps can be passed together
# What a job may hold that cannot be passed with others.
_OF_ITS_OWN = {
    "difficulty": "each example's gradient is looked at in training",
    "observer": "gradients are looked at in training",
    "own_head": "each device trains a second head",
    "rates": "parameters have learning rates of their own",
    "anchor": "parameters are fixed in some of the steps",
}


class CohortExecutor(SequentialExecutor):
    """Up to ``together`` devices train in one pass, their parameters stacked; all else is done one after another.

    Losses and parameters are those of one after another but for rounding, counts and costs are the same. What cannot
    be passed together is named in the log, once. Devices of which one fails train again, one after another.
    """

    def __init__(self, resident: Resident, together: int) -> None:
        super().__init__(resident)
        self.width = _AHEAD * together
        self._most = together
        self._told: set[str] = set()
        self._probed: dict[tuple[str, ...], str | None] = {}  # why these parameters cannot be stacked

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Result | DeviceFailed]]:
        """At most ``width`` jobs are taken ahead of the result that is given next."""
        waiting = iter(jobs)
        while taken := list(islice(waiting, self.width)):
            found: dict[int, LocalResult] = {}
            for cohort in self._cohorts(taken):
                found |= zip(cohort, self._trained([taken[number] for number in cohort]), strict=False)
            for number, job in enumerate(taken):
                if number in found:
                    yield job, found[number]
                else:
                    yield from super().run([job])

    def _cohorts(self, jobs: Sequence[Job]) -> list[list[int]]:
        """Numbers of jobs that are passed together: about equally many in each, of about equally many steps."""
        alike: dict[Any, list[tuple[int, int]]] = {}
        for number, job in enumerate(jobs):
            if isinstance(job, TrainJob) and len(job.batches):
                if (why := self._alone(job)) is not None:
                    self._say(why)
                else:
                    alike.setdefault(_rates(job), []).append((-len(job.batches), number))
        found = []
        for chosen in alike.values():
            numbers = [number for _, number in sorted(chosen)]
            parts = -(-len(numbers) // self._most)
            size = -(-len(numbers) // parts)
            found += [numbers[start : start + size] for start in range(0, len(numbers), size)]
        return [numbers for numbers in found if len(numbers) > 1]

    def _alone(self, job: TrainJob) -> str | None:
        """Why a job cannot be passed with others; None if it can."""
        settings = self.config.training
        if self.config.lora.dropout and any(".lora_" in name for name in self.layout.names):
            return "lora.dropout is drawn for each device by itself"
        if settings.micro_batch_size is not None:
            return "training.micro_batch_size keeps passes small"
        if settings.cache_mb not in ("auto", 0):  # where nobody asked for the cache, cohorts go before it
            return "training.cache_mb leaves out lower layers, device by device"
        if settings.keep_optimizer:
            return "devices whose optimizer is kept (training.keep_optimizer) have taken different numbers of steps"
        own = next((why for field, why in _OF_ITS_OWN.items() if getattr(job, field)), None)
        return own if own is not None or job.before is None else self._alone(job.before)

    def _trained(self, jobs: Sequence[Any]) -> list[LocalResult]:
        """The results of jobs that were passed together; [] where they could not be."""
        try:
            return self._passed_together(jobs)
        except CannotStack as why:
            self._say(str(why))
        except torch.OutOfMemoryError:
            self._most = max(1, self._most // 2)
            _log.warning("No memory for %d devices in one pass; from here on at most %d.", len(jobs), self._most)
        except DeviceFailed:
            pass  # whose failure it is, and its words, are found one after another
        return []

    def _passed_together(self, jobs: Sequence[TrainJob]) -> list[LocalResult]:
        """In the order of the jobs, all of which run another first or none does. Raises CannotStack, DeviceFailed."""
        firsts = [job.before for job in jobs if job.before is not None]
        if not firsts:
            return self._of_one_part(jobs)
        begun = self._passed_together(firsts)
        then = [
            replace(job, before=None, tensors={**job.tensors, **first.tensors})
            for job, first in zip(jobs, begun, strict=True)
        ]
        return [second.after(first) for second, first in zip(self._of_one_part(then), begun, strict=True)]

    def _of_one_part(self, jobs: Sequence[TrainJob]) -> list[LocalResult]:
        order = sorted(range(len(jobs)), key=lambda number: -len(jobs[number].batches))
        ordered = [jobs[number] for number in order]
        names = self._stackable(ordered)
        put_tensors(self.model, {n: t for n, t in jobs[0].tensors.items() if n not in names})
        self._require_gradients({})
        tensors, trained = [job.tensors for job in ordered], [job.trained for job in ordered]
        stack = StackedParameters(self.model, names, tensors, trained, self.device)
        seen = [
            TrainingCounts(self.model, self.task, list(job.batches), job.with_chances)
            if job.counted and len(job.batches)
            else None
            for job in ordered
        ]
        with self.training_mode(), stack.in_place():
            totals = train_together(self.model, self.task, self.data, ordered, stack, self.config.training, seen)
        results = [
            LocalResult.of(
                job,
                self.data,
                stack.of_device(number, job.trained),
                total,
                self._operations_of(job),
                seen=None if count is None else count.result(),
            )
            for number, (job, total, count) in enumerate(zip(ordered, totals, seen, strict=True))
        ]
        return [results[order.index(number)] for number in range(len(jobs))]

    def _operations_of(self, job: TrainJob) -> float:
        """Those of the job alone: what others are padded to is no cost of the device."""
        self._require_gradients(job.trained)
        with self.training_mode():
            return self._operations(job, batch_sizes(list(job.batches), self.data.lengths_within(job.max_tokens)))

    def _stackable(self, jobs: Sequence[TrainJob]) -> tuple[str, ...]:
        """The parameters that are stacked: those that train, and those in which devices differ. Raises CannotStack."""
        names = []
        for name in self.layout.names:
            trains = any(name in job.trained for job in jobs)
            first = jobs[0].tensors[name]
            if trains or any(not _same(job.tensors[name], first) for job in jobs[1:]):
                owner = self.model.get_submodule(name.rpartition(".")[0])
                if type(owner) is not nn.Linear:
                    does = "trains" if trains else "is each device's own"
                    raise CannotStack(f"only linear maps can be stacked, and what {does} is a {type(owner).__name__}'s")
                names.append(name)
        found = tuple(names)
        if found not in self._probed:
            self._probed[found] = why_not_stacked(self.model, self.task, self.data, self.layout, found)
        if (why := self._probed[found]) is not None:
            raise CannotStack(why)
        return found

    def _say(self, why: str) -> None:
        if why not in self._told:
            level = logging.INFO if self.config.training.cohort == "auto" else logging.WARNING
            _log.log(level, "Some training is done one device after another, not %d together: %s.", self._most, why)
            self._told.add(why)


def _same(one: Tensor, other: Tensor) -> bool:
    return one is other or torch.equal(one, other)


def _rates(job: TrainJob | None) -> tuple[float, ...]:
    """The learning rates of a job and of those that run before it."""
    return () if job is None else (job.learning_rate, *_rates(job.before))
