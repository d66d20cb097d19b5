"""What a model is trained for: the interface, and the two things every task passes around."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from fibecfed.config import Config
from fibecfed.errors import InputError

HEAD_WEIGHT, HEAD_BIAS = "head.weight", "head.bias"  # of a pooled head, among what trains
IGNORED = -100  # the target of a token that is not learned, as torch and transformers have it
Sums = Mapping[str, tuple[int, ...]]  # the shapes of sums over examples, by name


@dataclass(frozen=True)
class Batch:
    """Padded examples. B examples of at most T tokens; right padding."""

    input_ids: Tensor  # (B, T) int64
    attention_mask: Tensor  # (B, T) int64, 1 for a real token
    targets: Tensor  # (B, ...) what the task learns of each example; a label is (B,) int64, tokens are (B, T) int64
    token_type_ids: Tensor | None = None  # (B, T) int64

    def __len__(self) -> int:
        return int(self.input_ids.shape[0])

    def to(self, device: torch.device) -> "Batch":
        """The batch on a torch device."""
        types = None if self.token_type_ids is None else self.token_type_ids.to(device)
        return Batch(self.input_ids.to(device), self.attention_mask.to(device), self.targets.to(device), types)

    @property
    def read(self) -> Tensor:
        """(B, T) bool, the positions whose vectors the loss reads: before each learned token; else every real one."""
        if self.targets.shape != self.input_ids.shape:
            return self.attention_mask.bool()
        learned = self.targets[:, 1:] != IGNORED
        return torch.cat([learned, torch.zeros_like(learned[:, :1])], dim=1)

    def rows(self, start: int, stop: int) -> "Batch":
        """A slice of the examples, with the same padding."""
        types = None if self.token_type_ids is None else self.token_type_ids[start:stop]
        return Batch(self.input_ids[start:stop], self.attention_mask[start:stop], self.targets[start:stop], types)


@dataclass(frozen=True)
class Counts:
    """Additive evaluation counts; a metric is a function of their totals, so that devices can be pooled.

    Every array has the examples on its first axis: (B, ...), or (1, ...) after ``total``.
    """

    values: Mapping[str, np.ndarray]

    def total(self) -> "Counts":
        """The sum over examples, still additive."""
        return Counts({name: value.sum(axis=0, keepdims=True) for name, value in self.values.items()})

    def take(self, examples: np.ndarray) -> "Counts":
        """The counts of some examples."""
        return Counts({name: value[examples] for name, value in self.values.items()})

    @staticmethod
    def join(parts: Sequence["Counts"]) -> "Counts":
        """The examples of several counts, one after another."""
        names = parts[0].values if parts else ()
        return Counts({name: np.concatenate([part.values[name] for part in parts]) for name in names})


@dataclass(frozen=True)
class Encoded:
    """N examples that a task made into tokens itself, and what was cut of them."""

    ids: Sequence[np.ndarray]  # of each example (n,) int32
    targets: Sequence[np.ndarray]  # (n,) int32, what is learned at each token, or ``IGNORED``
    truncated: int  # examples
    tokens_cut: int


class FittedHead(NamedTuple):
    """A device's own head: ``weight`` (outputs, d), ``bias`` (outputs,), and how strong the pull was; None: no fit."""

    weight: Tensor
    bias: Tensor
    strength: float | None


Form = Mapping[str, tuple[tuple[int, ...], torch.dtype]]  # shape and type of tensors, by name


class Answering(Protocol):
    """What a model is judged by beside its outputs: what it answers, where the task has that; additive over devices."""

    def counts(self, model: nn.Module, examples: Sequence[tuple[np.ndarray, np.ndarray]]) -> Counts:
        """Totals (1, ...) over examples, each with its tokens (n,) and what is learned at each (n,)."""

    def metrics(self, counts: Counts) -> dict[str, float]:
        """Metrics of the counts' total. No examples: {}."""

    def totals_form(self) -> Form:
        """Shape (1, ...) and type of the totals, as a device sends them."""

    def totals_problem(self, totals: Mapping[str, Tensor], examples: int) -> str | None:
        """Why totals of that form cannot be those of so many held-out examples; None if they can."""


class TextRows(Protocol):
    """What a task reads its targets from: N rows as they were read, before tokenising."""

    @property
    def texts(self) -> Sequence[str]:
        """The (first) text of each row."""

    @property
    def labels(self) -> np.ndarray:
        """(N,) int64, what the column data.label says, as positions in ``label_names``."""

    @property
    def label_names(self) -> tuple[str, ...]:
        """What the column data.label can say."""


class Task(ABC):
    """What a model is trained for. A kind of task is a class; an instance knows what the rows of one run can be.

    Everything about targets is asked here. What the rest of the package sees is a ``group`` of each example, by which
    devices rank and count, and a score. A task without groups, priors or closed-form heads says so by what it inherits.
    """

    kind: ClassVar[str]  # its name in the configuration, task.kind
    metric: ClassVar[str]  # the main metric, which is the score
    lower_is_better: ClassVar[bool] = False  # of that score
    judged_by: ClassVar[str] = ""  # what ``judgement`` is called; empty: as the metric
    generates: ClassVar[bool] = False  # its model is a causal language model with the head that it came with
    group: ClassVar[str] = "group"  # what users call the group of an example
    tells_groups: ClassVar[bool] = False  # whether ``chances`` are there

    @classmethod
    @abstractmethod
    def of(cls, names: Sequence[str], extra_metrics: Sequence[str] = ()) -> "Task":
        """The task of a run; ``names``: what the column data.label can say."""

    @property
    @abstractmethod
    def outputs(self) -> int:
        """Width of the head."""

    @property
    def output_names(self) -> tuple[str, ...]:
        """What the outputs stand for, where they have names."""
        return ()

    def named(self) -> dict[str, list[str]]:
        """The names of the outputs as results keep them."""
        return {"labels": list(self.output_names)}

    @staticmethod
    def name_outputs(settings: Any, description: Mapping[str, Any]) -> None:
        """Tell a Hugging Face configuration what the outputs stand for, by what task.json says; here nothing."""
        return

    # Targets and groups

    @staticmethod
    @abstractmethod
    def targets(rows: TextRows) -> np.ndarray:
        """(N, ...) what is learned of each row."""

    @staticmethod
    def groups(rows: TextRows) -> np.ndarray:
        """(N,) int64, the group of each row, below ``group_count``; here all are in one."""
        return np.zeros(len(rows.texts), dtype=np.int64)

    @property
    def group_count(self) -> int:
        """How many groups there can be."""
        return 1

    @staticmethod
    def encoder(config: Config) -> "Callable[[Any, Any, int, int | None], Encoded] | None":
        """What makes rows into tokens, from rows, tokenizer, most tokens, and how many token ids the model knows.

        None: the tokenizer alone does, one text or pair a row.
        """
        return None

    @staticmethod
    def answering(config: Config, tokenizer: Any) -> Answering | None:
        """What judges answers, if the configuration asks for it; None: nothing does."""
        return None

    @staticmethod
    def prepare(tokenizer: Any) -> None:
        """Give a tokenizer what the task needs of it. Raises InputError where it cannot have it."""
        return

    @staticmethod
    def note(tokenizer: Any) -> str | None:
        """A sentence on what a prepared tokenizer got; None: nothing."""
        return None

    @staticmethod
    def trial_targets(ids: Tensor) -> Tensor:
        """Targets of a made-up batch (1, T), for counting operations."""
        return torch.zeros(len(ids), dtype=torch.int64, device=ids.device)

    @staticmethod
    def chances(outputs: Tensor) -> Tensor:
        """(B, G) the chance of each group that a model's ``outputs`` give each example. Only where ``tells_groups``."""
        raise NotImplementedError

    @property
    def group_names(self) -> tuple[str, ...]:
        """What the groups stand for, where they have names."""
        return self.output_names

    # Loss and judgement

    @abstractmethod
    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        """The loss of each example, -log p of its target up to a constant, shape (B,), differentiable."""

    @staticmethod
    def training_scale(batch: Batch) -> float | None:
        """What the mean of a batch's losses is multiplied by in training; None: by nothing."""
        return None

    @staticmethod
    def units(targets: np.ndarray) -> int:
        """How many single predictions the targets of one example hold."""
        return 1

    @abstractmethod
    def counts(self, outputs: Tensor, batch: Batch) -> Counts:
        """Additive counts of each example of a batch, first axis B; "loss" (B,) is one of them."""

    @abstractmethod
    def metrics(self, counts: Counts) -> dict[str, float]:
        """Metrics of the counts' total, ``metric`` first, then others, "loss" among them. No examples: {}."""

    @abstractmethod
    def totals_form(self) -> Form:
        """Shape (1, ...) and type of the counts' total, as a device sends it."""

    def totals_problem(self, totals: Mapping[str, Tensor], examples: int) -> str | None:
        """Why totals of that form cannot be those of so many examples; None if they can."""
        return "its losses are below 0" if (totals["loss"] < 0).any() else None

    def answers(self, counts: Counts) -> np.ndarray | None:
        """(G, G) how many examples of each group (row) the model put into which (column); None: it puts into none."""
        return None

    @staticmethod
    def judged_groups(outputs: int) -> int:
        """G, the groups that ``judged`` tells apart under a head of so many ``outputs``; here all are one."""
        return 1

    def judged(self, counts: Counts) -> np.ndarray:
        """(2, G) float64, additive over devices: the sum of scores in [0, 1] in each group, and its examples."""
        examples = len(counts.values["loss"])
        return np.array([[min(1.0, max(0.0, self.metrics(counts)[self.metric])) * examples], [examples]])

    @staticmethod
    def judgement(judged: np.ndarray) -> float:
        """How well a model judges, in [0, 1]: the mean over groups that have examples; 0 if none has.

        A warm-up ends once it is ``enough``. ``judged`` (2, G) is a sum over devices.
        """
        right, examples = judged
        present = examples > 0
        return float((right[present] / examples[present]).mean()) if present.any() else 0.0

    @staticmethod
    def enough(config: Config, outputs: int) -> float:
        """The judgement that ends a warm-up, under a head of so many ``outputs``; here chance is taken for 0."""
        return config.warm_up.accuracy

    @classmethod
    def is_warm(cls, config: Config, judged: Sequence[float], outputs: int) -> bool:
        """Whether a warm-up may end; ``judged``: the judgement of each of its rounds so far."""
        return judged[-1] >= cls.enough(config, outputs)

    # What a user sees of a finished run

    reading_code: ClassVar[str] = "print(logits[0].tolist())"  # of a model card: what `logits` (1, outputs) say
    answer: ClassVar[str] = ""  # the attribute of a prediction that a model card prints; empty: all of it

    def predictions(self, outputs: np.ndarray) -> list[Any]:
        """What (N, outputs) say of each text; here the numbers themselves."""
        return [row.tolist() for row in outputs.astype(np.float64)]

    @staticmethod
    def prediction_record(prediction: Any | None, digits: int | None) -> dict[str, Any]:
        """A prediction as JSON has it, with so many ``digits``; None where there is none."""
        if prediction is None:
            return {"outputs": None}
        return {"outputs": prediction if digits is None else [round(value, digits) for value in prediction]}

    @staticmethod
    def card_sentence(names: Sequence[str]) -> str:
        """What a model card says of the outputs, which have these names."""
        return ""

    # Sums over the devices' examples, sent once before the first round

    @classmethod
    def sum_shapes(cls, config: Config, hidden: int, outputs: int) -> dict[str, tuple[int, ...]]:
        """The sums that a device sends; {} if none are needed.

        Raises InputError for settings that the task has no sums for.
        """
        if config.training.loss not in (None, "cross_entropy"):
            raise InputError(f"task.kind={cls.kind} has no training.loss={config.training.loss}; leave it as it is.")
        if config.model.solves_head:
            raise InputError(f"task.kind={cls.kind} has no closed-form head; set model.head_init=random.")
        return {}

    @staticmethod
    def sum_dtype(name: str) -> torch.dtype:
        """In which a sum travels; the server adds them in float64."""
        return torch.float64

    @staticmethod
    def needs_features(wanted: Sums) -> bool:
        """Whether the backbone has to be asked for these sums."""
        return False

    @staticmethod
    def device_sums(targets: Tensor, vectors: Tensor | None, wanted: Sums) -> dict[str, Tensor]:
        """The sums over one device's examples; ``vectors`` (n, d) where ``needs_features``."""
        return {}

    @staticmethod
    def sums_problem(found: Mapping[str, Tensor], examples: int) -> str | None:
        """Why sums cannot be those of so many examples; None if they can."""
        return None

    @staticmethod
    def solve_head(
        config: Config, folds: Sequence[Mapping[str, Tensor]], start: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], str]:
        """Head tensors from the sums of each fold of devices, and how they came about, in a sentence."""
        return {}, ""

    @staticmethod
    def kept_sums(totals: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What of the sums the server remembers for later rounds."""
        return {}

    @staticmethod
    def expected_sum(name: str, group_counts: np.ndarray) -> Tensor | None:
        """A sum that is known from a device's groups, without its examples; None for another. For estimates."""
        return None

    # Training that knows what the device holds

    @staticmethod
    def prior_info(config: Config, memory: Mapping[str, Tensor]) -> dict[str, Any]:
        """What a training request says of everybody's targets; ``memory``: as ``kept_sums`` made it."""
        return {}

    @staticmethod
    def output_offset(info: Mapping[str, Any], own: np.ndarray) -> Tensor | None:
        """(outputs,) added to the outputs in training; ``info`` of the request, ``own``: the device's group counts."""
        return None

    # A device's own model, in its head

    @classmethod
    def prior_sums(cls, outputs: int) -> Sums:
        """The sums from which ``prior_offset`` knows everybody's targets. Raises InputError where there are none."""
        raise InputError(
            f"task.kind={cls.kind} has no proportions that a device's own model could be corrected by; leave "
            "training.loss as it is and set personal.head=none."
        )

    @staticmethod
    def prior_offset(memory: Mapping[str, Tensor], own: np.ndarray) -> Tensor | None:
        """(outputs,) added to the outputs of a device's own model; None while ``memory`` lacks the sums."""
        return None

    @staticmethod
    def fit_own_head(
        vectors: Tensor, targets: Tensor, weight: Tensor, bias: Tensor, offset: Tensor | None, rng: np.random.Generator
    ) -> FittedHead:
        """A head of the device's own from its (n, d) vectors and the shared head; ``offset`` as ``prior_offset``.

        Only asked of tasks that have ``prior_sums``.
        """
        raise NotImplementedError
