"""An executor that trains several devices in one pass, and one after another where that cannot be."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from fibecfed.config import Config
from fibecfed.data import TokenizedSet
from fibecfed.tasks import Answering, Batch, Task
from fibecfed.training.executor import SequentialExecutor
from fibecfed.training.job import DeviceFailed, Job, LocalResult, Result, TrainJob
from fibecfed.training.judging import TrainingCounts
from fibecfed.training.local import batch_sizes
from fibecfed.training.stacked import CannotStack, StackedParameters
from fibecfed.training.together import joined, train_together
from fibecfed.tuning import Layout, put_tensors

_log = logging.getLogger(__name__)
_AHEAD = 2  # cohorts at hand, so that devices with about as many steps can be passed together
_PROBED = 2  # examples of each of two devices that the probe passes
# How far rounding moves losses (relative, L2) that are made in batches of another size. Source: project decision.
_ROUNDING = {torch.float32: 1e-3}
_ROUNDING_OF_HALF = 0.1
# What a job may hold that cannot be passed with others.
_OF_ITS_OWN = {
    "before": "its devices train one part of the model after another",
    "difficulty": "each example's gradient is looked at in training",
    "penalty": "a penalty is added to the loss",
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

    def __init__(
        self,
        model: nn.Module,
        layout: Layout,
        task: Task,
        data: TokenizedSet,
        config: Config,
        answering: Answering | None,
        together: int,
    ) -> None:
        super().__init__(model, layout, task, data, config, answering)
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
        """Numbers of jobs that can be passed together: equally many in each, those with most steps first."""
        alike: dict[float, list[int]] = {}
        for number, job in enumerate(jobs):
            if isinstance(job, TrainJob) and len(job.batches):
                why = self._alone(job)
                if why is None:
                    alike.setdefault(job.learning_rate, []).append(number)
                else:
                    self._say(why)
        found = []
        for numbers in alike.values():
            numbers.sort(key=lambda number: -len(jobs[number].batches))  # type: ignore[union-attr]
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
        if settings.cache_mb:
            return "training.cache_mb leaves out lower layers, device by device"
        if settings.keep_optimizer:
            return "devices whose optimizer is kept (training.keep_optimizer) have taken different numbers of steps"
        return next((why for field, why in _OF_ITS_OWN.items() if getattr(job, field)), None)

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
        """Raises CannotStack and DeviceFailed."""
        names = self._stackable(jobs)
        put_tensors(self.model, {n: t for n, t in jobs[0].tensors.items() if n not in names})
        self._require_gradients({})
        tensors, trained = [job.tensors for job in jobs], [job.trained for job in jobs]
        stack = StackedParameters(self.model, names, tensors, trained, self.device)
        seen = [
            TrainingCounts(self.model, self.task, list(job.batches), job.with_chances) if job.counted else None
            for job in jobs
        ]
        with self.training_mode(), stack.in_place():
            totals = train_together(self.model, self.task, self.data, jobs, stack, self.config.training, seen)
        return [
            LocalResult.of(
                job,
                self.data,
                stack.of_device(number, job.trained),
                total,
                self._operations_of(job),
                seen=None if count is None else count.result(),
            )
            for number, (job, total, count) in enumerate(zip(jobs, totals, seen, strict=True))
        ]

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
                    kind, does = type(owner).__name__, "trains" if trains else "is each device's own"
                    raise CannotStack(f"a parameter of a {kind} {does}, and only those of linear maps can be stacked")
                names.append(name)
        found = tuple(names)
        if found not in self._probed:
            self._probed[found] = self._probe(found, jobs)
        if (why := self._probed[found]) is not None:
            raise CannotStack(why)
        return found

    def _probe(self, names: tuple[str, ...], jobs: Sequence[TrainJob]) -> str | None:
        """Why losses of devices passed together are not those of each alone, with drawn parameters; None if they are.

        It finds a model that mixes examples, or reads a weight past the map that it belongs to.
        """
        draw = torch.Generator().manual_seed(0)
        first, second = ({p.name: _drawn(p.shape, draw) for p in self.layout} for _ in range(2))
        second |= {name: tensor for name, tensor in first.items() if name not in names}
        own = [self.data.batch(job.batches[0][:_PROBED], job.max_tokens) for job in jobs[:2]]
        batch = joined(own, self.data.pad_id)
        examples = len(batch) // 2
        with torch.no_grad():
            alone = [self._losses(tensors, one) for tensors, one in zip((first, second), own, strict=True)]
            put_tensors(self.model, {name: tensor for name, tensor in first.items() if name not in names})
            stack = StackedParameters(self.model, names, [first, second], [{}, {}], self.device)
            stack.expect(2, examples)
            try:
                with stack.in_place():
                    together = self.task.losses(self.model, batch.to(self.device)).view(2, examples)
            except CannotStack as why:
                return str(why)
        made = torch.cat([losses[: len(one)] for losses, one in zip(together, own, strict=True)])
        wanted = torch.cat(alone)
        limit = _ROUNDING.get(next(self.model.parameters()).dtype, _ROUNDING_OF_HALF)
        if float((made - wanted).norm()) <= limit * float(wanted.norm()):
            return None
        return "the model reads parameters, or examples of others, where a device alone would not"

    def _losses(self, tensors: Mapping[str, Tensor], batch: Batch) -> Tensor:
        put_tensors(self.model, tensors)
        return self.task.losses(self.model, batch.to(self.device))

    def _say(self, why: str) -> None:
        if why not in self._told:
            level = logging.INFO if self.config.training.cohort == "auto" else logging.WARNING
            _log.log(level, "Some training is done one device after another, not %d together: %s.", self._most, why)
            self._told.add(why)


def _same(one: Tensor, other: Tensor) -> bool:
    return one is other or torch.equal(one, other)


def _drawn(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Normal entries, so large that a map changes its input by about as much as it is."""
    return torch.randn(tuple(shape), generator=generator) * shape[-1] ** -0.5
