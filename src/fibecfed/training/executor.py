"""Running devices' work on one resident model."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from fibecfed.config import Config
from fibecfed.curriculum import GradientRecorder, RunningDifficulty, score
from fibecfed.data import TokenizedSet, evaluation_batches
from fibecfed.errors import InputError, RunFailed
from fibecfed.models import blocks, is_weightless
from fibecfed.sharing import DeviceLoss, LayerChange, MomentumFisher, layer_sensitivity, lossless_share, plateau_share
from fibecfed.tasks import Answering, Batch, Counts, Task
from fibecfed.training.cache import HiddenStates
from fibecfed.training.features import Features
from fibecfed.training.job import (
    AnswerJob,
    CountJob,
    CountResult,
    CurvatureJob,
    CurvatureResult,
    DeviceFailed,
    FeaturesJob,
    FeaturesResult,
    Job,
    LayerNoise,
    LocalResult,
    PassJob,
    PassResult,
    Result,
    ScoreJob,
    ScoreResult,
    TrainJob,
)
from fibecfed.training.judging import TrainingCounts
from fibecfed.training.local import batch_sizes, make_optimizer, train
from fibecfed.training.memory import cache_bytes
from fibecfed.training.mode import TrainingMode
from fibecfed.training.operations import OperationCounter
from fibecfed.training.second_head import OPERATIONS, SecondHead
from fibecfed.training.torch_devices import torch_device
from fibecfed.tuning import Layout, put_tensors

_log = logging.getLogger(__name__)
_LIPSCHITZ_SAMPLES = 1  # each costs 20 Hessian-vector products
_PLATEAU_PROBES = 2


@dataclass(frozen=True)
class Resident:
    """What stays in memory for the work of all devices: the model, and the texts it works on."""

    model: nn.Module
    layout: Layout
    task: Task
    data: TokenizedSet  # the training set
    config: Config
    answering: Answering | None = None


class Executor(Protocol):
    """Runs devices' jobs: one after another, in worker processes, or a cohort's LoRA stacked in one pass."""

    width: int  # how many devices' jobs it wants at hand at once

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Result | DeviceFailed]]:
        """Each job with its result, in the order of the jobs; a job's failure is its own result."""


class SequentialExecutor:
    """One job after another on one resident backbone; a job is taken when the one before it is done."""

    width = 1

    def __init__(self, resident: Resident, processes: int = 1) -> None:
        """``processes``: of this run, which share the memory for hidden states."""
        model, task, config = resident.model, resident.task, resident.config
        self.layout = resident.layout
        self.device = torch_device(config.runtime.device)
        self.model = model if is_weightless(model) else model.to(self.device)
        self.task = task
        self.data = resident.data
        self.config = config
        self.answering = resident.answering
        self.operations = OperationCounter(self.model, task, self.device)
        backbone: Any = model.backbone
        self.blocks = list(blocks(backbone, backbone.config))  # lowest first
        self.features = Features(config.evaluation.batch_size, self.passed)
        limit = 0 if is_weightless(model) else cache_bytes(config, self.device, processes)
        self.hidden_states = HiddenStates(self.model, self.blocks, self.layout, self.data, limit, self._no_states)
        self._trainable = [name for name, p in model.named_parameters() if p.requires_grad]
        self._work: dict[type[Job], Callable[[Any], Result]] = {
            TrainJob: self._train,
            ScoreJob: self._score,
            CountJob: self._count,
            PassJob: lambda job: PassResult(list(self.passed(job.tensors, job.data, job.batches, job.read))),
            AnswerJob: self._answer,
            FeaturesJob: self._features,
            CurvatureJob: self._curvature,
        }

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Result | DeviceFailed]]:
        for job in jobs:
            try:
                yield job, self.result(job)
            except DeviceFailed as failure:
                yield job, failure

    @property
    def processes(self) -> Sequence[int]:
        """The ids of the processes it runs beside this one."""
        return ()

    def cpu_seconds(self) -> float:
        """Processor time so far, of this process and those beside it."""
        return time.process_time()

    def close(self) -> None:
        """End what runs beside this process; the executor can be used again."""

    def results(self, jobs: Iterable[Job]) -> Iterator[tuple[Any, Any]]:
        """As ``run``, where there is no round that could go on without one of them. Raises RunFailed."""
        for job, result in self.run(jobs):
            if isinstance(result, DeviceFailed):
                raise RunFailed(f"Evaluation cannot go on: {result}.")
            yield job, result

    def result(self, job: Job) -> Any:
        """One job's result, of the kind that belongs to it. Raises DeviceFailed, as for a loss that is not finite."""
        return self._work[type(job)](job)

    def _train(self, job: TrainJob) -> LocalResult:
        if job.before is not None:
            first = self._train(job.before)
            then = replace(job, before=None, tensors={**job.tensors, **first.tensors})
            return self._train(replace(then, own_head=first.own_head) if first.own_head else then).after(first)
        put_tensors(self.model, job.tensors)
        self._require_gradients(job.trained)
        lengths = self.data.lengths_within(job.max_tokens)
        batches: Iterator[Batch] = (self.data.batch(indices, job.max_tokens).to(self.device) for indices in job.batches)
        with torch.random.fork_rng(devices=[]), self.training_mode():
            torch.manual_seed(job.seed)
            sizes = batch_sizes(list(job.batches), lengths)
            with (
                self._cached(job),
                self._counted(job) as seen,
                self._refreshed(job, batches) as followed,
                self._second_head(job) as second,
            ):
                total, optimizer_state = train(
                    self.model, self.task, job, followed.batches, self.config.training, second
                )
            # Here and not later: recomputed activations count, and what records gradients does not.
            operations = self._operations(job, sizes)
        parameters = dict(self.model.named_parameters())
        own = 0 if second is None else OPERATIONS * second.weight.numel() * sum(map(len, job.batches))
        return LocalResult.of(
            job,
            self.data,
            {name: parameters[name].detach().cpu().clone() for name in job.trained},
            total,
            operations + own,
            optimizer_state=optimizer_state,
            difficulty=None if followed.running is None else followed.running.values,
            observed={} if job.observer is None else job.observer.result(),
            seen=None if seen is None else seen.result(),
            own_head={} if second is None else second.result(),
        )

    def _counted(self, job: TrainJob) -> AbstractContextManager[TrainingCounts | None]:
        """Watches what the model says of the examples, if the job asks for it."""
        if not job.counted or not job.batches:
            return nullcontext()
        return TrainingCounts(self.model, self.task, list(job.batches), job.with_chances)

    @contextmanager
    def _second_head(self, job: TrainJob) -> Iterator[SecondHead | None]:
        """A head of the device's own beside the model, if the job has one."""
        if job.own_head is None:
            yield None
            return
        settings = self.config.training
        make = partial(make_optimizer, learning_rate=job.learning_rate, settings=settings)
        second = SecondHead(job.own_head, self.device, make, settings.max_grad_norm)
        with second.beside(self.model):
            yield second

    def _operations(self, job: TrainJob, sizes: list[tuple[int, int]]) -> float:
        """Of training; a backward pass that ends above fixed layers is counted as that."""
        if not job.anchored:
            return self.operations.training(sizes)
        whole = [size for step, size in enumerate(sizes) if step not in job.anchored]
        rest = [sizes[step] for step in sorted(job.anchored)]
        operations = self.operations.training(whole)
        self._require_gradients({name: rows for name, rows in job.trained.items() if name not in job.anchor})
        return operations + self.operations.training(rest)

    def _cached(self, job: TrainJob) -> AbstractContextManager[None]:
        """Training that takes what is known of the layers under the lowest one that trains."""
        if job.max_tokens is not None:  # whole texts are kept
            return nullcontext()
        micro = self.config.training.micro_batch_size
        return self.hidden_states.serving(job.trained, job.tensors, job.batches, micro, self.device)

    def _no_states(self) -> None:
        """Raises InputError where hidden states cannot be kept, and should be."""
        kind = self.model.backbone.config.model_type  # type: ignore[union-attr]
        why = f"layers that take one vector for each token of each text; those of a {kind} do not"
        if self.config.training.cache_mb != "auto":
            raise InputError(f"training.cache_mb needs {why}. Set training.cache_mb=auto.")
        _log.info("No hidden states are kept: that needs %s.", why)

    @contextmanager
    def _refreshed(self, job: TrainJob, batches: Iterator[Batch]) -> Iterator["_Followed"]:
        """The batches, and scores that follow their training if the job asks for it."""
        if job.difficulty is None:
            yield _Followed(batches, None)
            return
        running = RunningDifficulty(*job.difficulty)
        names = [p.name for p in self.layout if p.layer is not None and p.name in job.trained]
        with GradientRecorder(self.model, names) as recorder:
            yield _Followed(running.follow(recorder, job.batches, batches, job.weights, self._divisor), running)

    def _divisor(self, chosen: np.ndarray, batch: Batch) -> np.ndarray | float:
        """What makes a squared gradient norm in training one of an example's own loss, or of a prediction in it."""
        scale = self.task.training_scale(batch) or 1.0
        if self.config.curriculum.per_token:
            return scale**2 * self.data.units(self.task, chosen)
        return scale**2

    def _score(self, job: ScoreJob) -> ScoreResult:
        """One pass; the operations are those of the pass and of two forward passes where layers are tried."""
        put_tensors(self.model, job.tensors)
        matrices = self.layout.only(p.name for p in self.layout if p.layer is not None)
        fisher = None if job.momentum is None else MomentumFisher(matrices, job.momentum)
        noise = None if job.noise is None else _NoiseSum(self.model, self.blocks, job.noise)
        scores = score(
            job.kind,
            self.model,
            self.task,
            self.data,
            job.indices,
            list(matrices.names),
            self.config.training.batch_size,
            first_block=None if noise is None else self.blocks[0],
            on_gradients=None if fisher is None else fisher.fold,
            on_noise_gradient=None if noise is None else noise.fold,
            rng=job.order,
            with_chances=job.with_chances,
        )
        self._require_gradients(dict.fromkeys(matrices.names))
        if self.config.curriculum.per_token:
            units = self.data.units(self.task, job.indices)
            scores = replace(scores, difficulty=scores.difficulty / units)
        sizes = list(scores.sizes)
        operations = forward = self.operations.prediction(sizes)
        if job.kind != "loss" or fisher is not None or noise is not None:
            backwards = self.task.outputs if job.kind == "fisher-model" else 1
            operations += backwards * (self.operations.training(sizes) - forward)
        if noise is not None:
            operations += 2 * forward
        return ScoreResult(
            scores, None if fisher is None else fisher.values, None if noise is None else noise.total, operations
        )

    def _features(self, job: FeaturesJob) -> FeaturesResult:
        """(n, d) pooled vectors (pooled head only)."""
        vectors = self.features.vectors(job.tensors, self.data, job.indices)
        return FeaturesResult(vectors, self.prediction_operations(job.indices))

    def prediction_operations(self, indices: np.ndarray) -> float:
        """What a forward pass over these training examples takes, as a ``FeaturesJob`` makes it."""
        batches = evaluation_batches(indices, self.data.lengths[indices], self.config.evaluation.batch_size)
        return self.operations.prediction(batch_sizes(list(batches), self.data.lengths))

    def _count(self, job: CountJob) -> CountResult:
        lengths = job.data.lengths[job.indices]
        operations = self.operations.prediction([(1, int(length)) for length in lengths])
        return CountResult(self.counts(job.tensors, job.data, job.indices), operations)

    def _curvature(self, job: CurvatureJob) -> CurvatureResult:
        """Raises InputError where the model cannot be differentiated twice. Source: docs/method.md section 5 [L]."""
        size = self.config.training.batch_size
        chosen = [job.indices[start : start + size] for start in range(0, len(job.indices), size)]
        batches = [self.data.batch(positions).to(self.device) for positions in chosen]
        put_tensors(self.model, job.tensors)
        names = [p.name for p in self.layout if p.layer is not None]
        loss = DeviceLoss(self.model, self.task, batches, names)
        if job.rule == "lossless":
            share = lossless_share(loss, job.radius, job.steps, _LIPSCHITZ_SAMPLES, job.generator).fraction
        else:
            share = plateau_share(loss, job.steps, _PLATEAU_PROBES, job.generator)
        sizes = [(len(batch), int(batch.input_ids.shape[1])) for batch in batches]
        passes = loss.gradients + 2 * loss.products  # a product differentiates a gradient again
        return CurvatureResult(share, passes, passes * self.operations.training(sizes))

    def counts(self, tensors: Mapping[str, Tensor], data: TokenizedSet, indices: np.ndarray) -> Counts:
        """Evaluation counts of the examples at ``indices``, in that order."""
        batches = list(evaluation_batches(indices, data.lengths[indices], self.config.evaluation.batch_size))
        if not batches:
            return Counts({})
        if self.features.is_shared(tensors):
            self.features.vectors(tensors, data, indices)  # all of them in as few batches as there can be
            parts: Iterator[Counts] = self._heads_alone(tensors, data, batches)
        else:
            parts = self.passed(tensors, data, batches, "counts")
        position = np.empty(len(data), dtype=np.int64)
        position[indices] = np.arange(len(indices))
        return Counts.join(list(parts)).take(np.argsort(np.concatenate([position[chosen] for chosen in batches])))

    def _heads_alone(
        self, tensors: Mapping[str, Tensor], data: TokenizedSet, batches: Sequence[np.ndarray]
    ) -> Iterator[Counts]:
        """The counts of batches whose vectors are known."""
        for chosen in batches:
            batch = data.batch(chosen).to(self.device)
            yield self.task.counts(self.features.outputs(tensors, data, chosen, self.device), batch)

    def passed(
        self, tensors: Mapping[str, Tensor], data: TokenizedSet, batches: Sequence[np.ndarray], read: str
    ) -> Iterator[Any]:
        """What a ``PassJob`` reads, batch by batch."""
        model: Any = self.model
        put_tensors(model, tensors)
        for chosen in batches:
            batch = data.batch(chosen).to(self.device)
            with torch.no_grad():
                yield self.task.counts(model(batch), batch) if read == "counts" else model.features(batch).cpu()

    def _answer(self, job: AnswerJob) -> Counts:
        assert self.answering is not None
        put_tensors(self.model, job.tensors)
        return self.answering.counts(self.model, job.data.learned(job.indices))

    def _require_gradients(self, names: Mapping[str, Tensor | None]) -> None:
        """Only what trains asks for gradients, so autograd stops below the lowest layer that does."""
        parameters = dict(self.model.named_parameters())
        for name in self._trainable:
            parameters[name].requires_grad_(name in names)
            parameters[name].grad = None

    def training_mode(self) -> TrainingMode:
        """A context in which the model trains as configured: dropout on, activations recomputed."""
        return TrainingMode(self.model, self.blocks, self.config)


class _NoiseSum:
    """Layers' answers to noise, summed over the batches of a scoring pass."""

    def __init__(self, model: nn.Module, stack: list[nn.Module], noise: LayerNoise) -> None:
        self._model, self._blocks, self._noise = model, stack, noise
        self.total = LayerChange(np.zeros(len(stack)), np.zeros(len(stack)), 0)

    def fold(self, batch: Batch, gradient: Tensor) -> None:
        direction = gradient if self._noise.kind == "worst_case" else self._noise.generator
        self.total += layer_sensitivity(self._model, self._blocks, batch, direction, self._noise.sigma)


@dataclass(frozen=True)
class _Followed:
    batches: Iterator[Batch]
    running: RunningDifficulty | None
