"""A device's work as data: what an executor needs, and what it gives back."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from torch import Tensor

from fibecfed.curriculum import ScoreKind, Scores
from fibecfed.data import TokenizedSet
from fibecfed.errors import FibecFedError
from fibecfed.sharing import LayerChange
from fibecfed.tasks import Counts

Penalty = Callable[[Mapping[str, Tensor]], Tensor]  # the model's parameters by name -> a differentiable scalar


class Observer(Protocol):
    """Looks on at training; what it found goes into the result."""

    def observe(self, parameters: Mapping[str, Tensor]) -> None:
        """The model's parameters by name with the gradients of one step, unclipped, before they move."""

    def result(self) -> dict[str, Tensor]:
        """Tensors by name."""


class DeviceFailed(FibecFedError):
    """A device could not do its work; the round goes on without it."""


@dataclass(frozen=True)
class TrainJob:
    """Train ``trained`` on ``batches``, starting from ``tensors``.

    ``trained`` maps a parameter name to the sorted rows that move, None for all of them.
    What is not in it stays bit-identical, weight decay included.
    """

    device: int
    round: int
    tensors: Mapping[str, Tensor]  # every trainable parameter's value at the start
    trained: Mapping[str, Tensor | None]
    batches: Sequence[np.ndarray]  # positions in the training set
    learning_rate: float
    seed: int  # of dropout
    optimizer_state: Mapping[str, Tensor] = field(default_factory=dict)
    output_offset: Tensor | None = None  # (outputs,) added to the outputs in training only
    weights: Mapping[int, float] | None = None  # of examples' losses, by position; None: all 1
    difficulty: tuple[np.ndarray, np.ndarray] | None = None  # positions and scores to keep up to date
    max_tokens: int | None = None  # examples are cut to so many tokens; None: not cut
    penalty: Penalty | None = None  # added to each step's mean loss, not to the loss that is reported
    observer: Observer | None = None
    counted: bool = False  # what the task counts of the outputs is wanted
    with_chances: bool = False  # and what they say of each group, beside it
    own_head: Mapping[str, Tensor] | None = None  # a second head's weight and bias at the start; None: there is none
    rates: Mapping[str, float] = field(default_factory=dict)  # learning rates of those of ``trained`` with another one
    anchor: Mapping[str, Tensor] = field(default_factory=dict)  # values that some of ``trained`` have while fixed
    anchored: frozenset[int] = frozenset()  # positions in ``batches`` at which they are
    before: "TrainJob | None" = None  # runs first; this job starts from what it leaves


@dataclass(frozen=True)
class TrainingSeen:
    """What the task counts of each example's outputs, as they were when it was first trained on."""

    examples: np.ndarray  # (n,) positions in the training set, each once
    counts: Counts  # in that order
    chances: np.ndarray | None = None  # (n, G) float32 in that order, if the job wants it


@dataclass(frozen=True)
class LocalResult:
    """What local training produced."""

    tensors: Mapping[str, Tensor]  # final values of the trained parameters, whole
    loss: float  # mean over examples, as seen during training
    examples: int  # examples trained, repeats counted
    operations: float  # floating-point operations executed, counted
    optimizer_state: Mapping[str, Tensor]
    difficulty: np.ndarray | None = None  # refreshed scores, in the order of the job's
    observed: Mapping[str, Tensor] = field(default_factory=dict)  # of the job's observer
    seen: TrainingSeen | None = None  # if the job wants it counted
    own_head: Mapping[str, Tensor] = field(default_factory=dict)  # the second head's, as the job's
    tokens: int = 0  # trained, padding left out, repeats counted
    tokens_cut: int = 0  # beside them, because of max_tokens

    @staticmethod
    def of(
        job: TrainJob, data: TokenizedSet, tensors: Mapping[str, Tensor], total: float, operations: float, **more: Any
    ) -> "LocalResult":
        """Of a job on the training set ``data``; ``total``: the summed loss, ``more``: fields that few jobs want."""
        lengths = data.lengths_within(job.max_tokens)
        examples = sum(map(len, job.batches))
        tokens = sum(int(lengths[batch].sum()) for batch in job.batches)
        whole = sum(int(data.lengths[batch].sum()) for batch in job.batches)
        return LocalResult(
            **{"optimizer_state": {}, **more},
            tensors=tensors,
            loss=total / max(1, examples),
            examples=examples,
            operations=operations,
            tokens=tokens,
            tokens_cut=whole - tokens,
        )

    def after(self, first: "LocalResult") -> "LocalResult":
        """The result of two jobs in a row, this one the second."""
        examples = first.examples + self.examples
        return LocalResult(
            tensors={**first.tensors, **self.tensors},
            loss=(first.loss * first.examples + self.loss * self.examples) / max(1, examples),
            examples=examples,
            operations=first.operations + self.operations,
            optimizer_state={**first.optimizer_state, **self.optimizer_state},
            difficulty=first.difficulty if self.difficulty is None else self.difficulty,
            observed={**first.observed, **self.observed},
            seen=first.seen if self.seen is None else self.seen,
            own_head=self.own_head or first.own_head,
            tokens=first.tokens + self.tokens,
            tokens_cut=first.tokens_cut + self.tokens_cut,
        )


@dataclass(frozen=True)
class LayerNoise:
    """Noise on the embeddings while examples are scored: how each layer answers it is summed over them."""

    kind: Literal["gaussian", "worst_case"]
    sigma: float  # of the embeddings' norm
    generator: np.random.Generator  # of gaussian noise


@dataclass(frozen=True)
class ScoreJob:
    """Score training examples with a model in one pass; with it the Fisher diagonal and the layers' answer to noise."""

    device: int
    tensors: Mapping[str, Tensor]
    kind: ScoreKind
    indices: np.ndarray  # positions in the training set
    order: np.random.Generator  # of the mini-batches
    momentum: float | None = None  # of the Fisher diagonal; None: it is not wanted
    noise: LayerNoise | None = None
    with_chances: bool = False  # what the model says of each group is wanted, too


@dataclass(frozen=True)
class ScoreResult:
    """What a scoring pass found."""

    scores: Scores
    fisher: Mapping[str, Tensor] | None  # by parameter of the layers
    layers: LayerChange | None
    operations: float


@dataclass(frozen=True)
class CountJob:
    """What the task counts of a model on examples of a set: losses, right answers, whatever its metrics need."""

    device: int
    tensors: Mapping[str, Tensor]
    data: TokenizedSet
    indices: np.ndarray


@dataclass(frozen=True)
class CountResult:
    """Counts in the order of the job's indices, and the operations of examples that pass one by one."""

    counts: Counts
    operations: float


@dataclass(frozen=True)
class PassJob:
    """Forward passes over batches as they are, and what is read of each: counts, or (B, d) pooled vectors."""

    tensors: Mapping[str, Tensor]
    data: TokenizedSet
    batches: Sequence[np.ndarray]
    read: Literal["counts", "vectors"]
    device: int | None = None  # None: it is no device's own


@dataclass(frozen=True)
class PassResult:
    """What was read, batch by batch."""

    parts: Sequence[Any]


@dataclass(frozen=True)
class AnswerJob:
    """Totals of what a language model answers to the prompts of examples; the result is Counts."""

    device: int
    tensors: Mapping[str, Tensor]
    data: TokenizedSet
    indices: np.ndarray


@dataclass(frozen=True)
class FeaturesJob:
    """The (n, d) pooled vectors of training examples."""

    device: int
    tensors: Mapping[str, Tensor]
    indices: np.ndarray


@dataclass(frozen=True)
class FeaturesResult:
    """The vectors in the order of the job's indices."""

    vectors: Tensor
    operations: float


@dataclass(frozen=True)
class CurvatureJob:
    """The share r_k of LoRA's spectrum that count=lossless or plateau keeps, from the Hessian over ``indices``."""

    device: int
    tensors: Mapping[str, Tensor]
    rule: Literal["lossless", "plateau"]
    indices: np.ndarray
    radius: float  # for lossless
    steps: int  # of Lanczos
    generator: np.random.Generator


@dataclass(frozen=True)
class CurvatureResult:
    """r_k, None where the spectrum has no gap; how often the examples were passed, and the operations it took."""

    share: float | None
    passes: int
    operations: float


Job = TrainJob | ScoreJob | CountJob | PassJob | AnswerJob | FeaturesJob | CurvatureJob
Result = LocalResult | ScoreResult | CountResult | PassResult | Counts | FeaturesResult | CurvatureResult
