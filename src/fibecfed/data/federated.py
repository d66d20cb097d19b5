"""The data of one run: tokenised splits and who holds what."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Literal

import numpy as np

from fibecfed.config import Config
from fibecfed.data.dealing import deal
from fibecfed.data.fingerprint import DataPrint, data_print
from fibecfed.data.habits import Habits
from fibecfed.data.holding import Holding, Owners
from fibecfed.data.rows import Rows
from fibecfed.data.splits import Splits
from fibecfed.data.tokens import TokenizedSet, tokenize
from fibecfed.tasks import Task, task_kind

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class FederatedData:
    """Everything the devices and the evaluation read. ``held_out`` is the split that is evaluated on.

    ``own`` is the same with the labels that its devices give it; None: they label as the data does.
    """

    task: Task
    train: TokenizedSet
    devices: Holding
    held_out: TokenizedSet
    held_out_owners: Owners
    validation_rows: Rows
    origin: str
    evaluated_on: Literal["test", "validation"]
    tokenize: Callable[[Rows], TokenizedSet]
    fingerprint: DataPrint
    shared: int = 0  # held-out examples whose text is also a training text
    notes: tuple[str, ...] = ()  # sentences on the data that a user should see
    own: TokenizedSet | None = None
    habits: Habits | None = None

    @cached_property
    def validation(self) -> TokenizedSet:
        """The validation part, tokenised when it is first asked for: most runs never do."""
        return self.held_out if self.evaluated_on == "validation" else self.tokenize(self.validation_rows)

    def group_counts(self) -> np.ndarray:
        """(K, G) training examples of each group on each device."""
        return self.devices.label_counts(self.train.groups, self.task.group_count)

    def held_out_group_counts(self) -> np.ndarray:
        """(K, G) held-out examples of each group on each device."""
        return self.held_out_owners.label_counts((self.own or self.held_out).groups, self.task.group_count)


def build_data(
    config: Config,
    splits: Splits,
    tokenizer: "PreTrainedTokenizerBase",
    pooled: bool = False,
    vocabulary: int | None = None,
) -> FederatedData:
    """Partition and tokenise (see ``tokenize``); of the raw text only the validation part is kept."""
    evaluated_on = config.evaluation.split
    dealt = deal(config, splits, pooled)
    kind, length = task_kind(config), config.data.max_length
    as_tokens = partial(
        tokenize,
        tokenizer=tokenizer,
        max_length=length,
        vocabulary=vocabulary,
        task=kind,
        encoder=kind.encoder(config),
    )
    said = kind.note(tokenizer)
    held_out, own = as_tokens(dealt.held_out), None
    if dealt.own is not None:
        own = replace(held_out, targets=kind.targets(dealt.own), groups=kind.groups(dealt.own))
    return FederatedData(
        task=kind.of(splits.train.label_names, splits.extra_metrics),
        train=as_tokens(dealt.train),
        devices=dealt.devices,
        held_out=held_out,
        held_out_owners=dealt.owners,
        validation_rows=splits.validation,
        origin=splits.origin,
        evaluated_on=evaluated_on,
        tokenize=as_tokens,
        shared=splits.shared.get(evaluated_on, 0),
        notes=splits.notes if said is None else (*splits.notes, said),
        fingerprint=data_print(splits.source, dealt.train, splits.validation, splits.test, dealt.devices),
        own=own,
        habits=dealt.habits,
    )
