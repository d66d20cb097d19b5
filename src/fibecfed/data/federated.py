"""The data of one run: tokenised splits and who holds what."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fibecfed.config import Config, nearest_hint
from fibecfed.data.columns import Columns
from fibecfed.data.files import read_rows
from fibecfed.data.fingerprint import DataPrint, data_print, rows_print
from fibecfed.data.named import DATASETS, SUPPORT, dataset_names, read_named
from fibecfed.data.partition import Partition, partition, partition_like
from fibecfed.data.rows import Rows, draw, flip_labels, hold_out
from fibecfed.data.tokens import TokenizedSet, tokenize
from fibecfed.errors import InputError
from fibecfed.seeding import stream
from fibecfed.tasks import Classification

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Splits:
    """Training, validation and test rows, and a sentence on how they came about."""

    train: Rows
    validation: Rows
    test: Rows
    origin: str
    extra_metrics: tuple[str, ...] = ()
    source: Mapping[str, Any] = field(default_factory=dict)  # what the rows were as they were read, before any draw


@dataclass(frozen=True)
class FederatedData:
    """Everything the devices and the evaluation read. ``held_out`` is the split that is evaluated on."""

    task: Classification
    train: TokenizedSet
    devices: Partition
    held_out: TokenizedSet
    held_out_owners: Partition
    validation_rows: Rows
    origin: str
    judged_on: Literal["test", "validation"]
    tokenize: Callable[[Rows], TokenizedSet]
    fingerprint: DataPrint

    @cached_property
    def validation(self) -> TokenizedSet:
        """The validation part, tokenised when it is first asked for: most runs never do."""
        return self.held_out if self.judged_on == "validation" else self.tokenize(self.validation_rows)

    def proportions(self, device: int) -> np.ndarray:
        """(C,) label proportions of a device's training examples, Laplace-smoothed by 1."""
        labels = self.train.labels[self.devices.indices(device)]
        counts = np.bincount(labels, minlength=self.task.outputs) + 1.0
        return counts / counts.sum()


def load_splits(config: Config) -> Splits:
    """Read the data that a configuration names and split it; all draws are seeded.

    The validation part is taken out of the training rows first, so that it is the same whatever ``train_examples`` and
    ``label_noise`` are. With partition.kind=column every device gives its share to each part (see ``hold_out``).
    Raises InputError; see ``read_rows`` and ``read_named``.
    """
    data, seed = config.data, config.seed
    by_device = data.partition.kind == "column"
    extra: tuple[str, ...] = ()
    if data.file:
        train, test, origin = _read_files(config)
    elif data.labels is not None:
        raise InputError(f"data.labels belongs to data.file; the data set '{data.name}' has labels of its own.")
    elif data.name in dataset_names():
        train, test, origin = read_named(data.name, data.dir, data.allow_download)
        extra = DATASETS[data.name].extra_metrics if data.name != SUPPORT.name else ()
    else:
        raise InputError(
            f"Unknown data set '{data.name}' (data.name).{nearest_hint(data.name, dataset_names())} "
            f"Known: {', '.join(dataset_names())}; for your own file set data.file."
        )
    source = {"train": rows_print(train), "test": rows_print(test)}
    if test is None:
        total = round(data.test_fraction * len(train))
        test, train = hold_out(train, total, stream(seed, "test split"), by_device)
        origin += (
            f", a seeded stratified part ({len(test)} of {len(test) + len(train)} examples) is held out for testing"
        )
    validation, train = hold_out(
        train, round(data.validation_fraction * len(train)), stream(seed, "validation split"), by_device
    )
    held_out = validation if config.evaluation.split == "validation" else test
    if not len(train) or not len(held_out):
        raise InputError(
            f"The data has {len(train)} training and {len(held_out)} {config.evaluation.split} examples; both are "
            "needed (data.test_fraction and data.validation_fraction say how many are held out)."
        )
    train = draw(train, data.train_examples, "train_examples", stream(seed, "training draw"), by_device)
    test = draw(test, data.test_examples, "test_examples", stream(seed, "test draw"), by_device)
    train = flip_labels(train, data.label_noise, stream(seed, "label noise"))
    return Splits(train, validation, test, origin, extra, source)


def _read_files(config: Config) -> tuple[Rows, Rows | None, str]:
    data = config.data
    assert data.file is not None
    columns = Columns(data.text, data.text_pair, data.label, data.device, data.separator)
    train = read_rows(data.file, columns, data.labels)
    if data.device is not None and train.devices is None:
        raise InputError(f"'{data.file}' has no column '{data.device}' (data.device).")
    if data.test_file is None:
        return train, None, f"{data.file}; no test file"
    test = read_rows(data.test_file, columns, train.label_names)
    origin = f"{data.file}; tested on {data.test_file}"
    if data.partition.kind == "column" and train.devices is not None and test.devices is None:
        origin += ", which names no devices: each device is tested on a part of it with the device's own label mix"
    return train, test, origin


def partition_rows(config: Config, train: Rows, held_out: Rows, pooled: bool = False) -> tuple[Partition, Partition]:
    """Who holds which training and which held-out example; ``pooled`` gives everything to one device.

    Where rows name their device (partition.kind=column), held-out rows that do go to it as well;
    otherwise held-out shards follow each device's own label proportions (METHOD.md section 1).
    """
    classes = len(train.label_names)
    if pooled:
        return (
            Partition(np.arange(len(train)), np.array([0, len(train)]), None),
            Partition(np.arange(len(held_out)), np.array([0, len(held_out)]), None),
        )
    settings, devices = config.data.partition, config.federation.devices
    owned = partition(train.labels, classes, settings, devices, stream(config.seed, "partition"), train.devices)
    if settings.kind == "column" and held_out.devices is not None and owned.names is not None:
        return owned, _partition_by_names(held_out.devices, owned.names)
    counts = owned.label_counts(train.labels, classes)
    return owned, partition_like(counts, held_out.labels, classes, stream(config.seed, "held-out partition"))


def _partition_by_names(devices: np.ndarray, names: tuple[str, ...]) -> Partition:
    position = {name: i for i, name in enumerate(names)}
    unknown = sorted(set(devices.tolist()) - set(position))
    if unknown:
        rows = int((devices == unknown[0]).sum())
        raise InputError(
            f"The test data names the device '{unknown[0]}' ({rows} rows), which has no training rows; "
            f"devices with training rows: {', '.join(names[:20])}{', ...' if len(names) > 20 else ''}."
        )
    owner = np.array([position[name] for name in devices.tolist()], dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=len(names)))])
    return Partition(np.argsort(owner, kind="stable"), offsets, names)


def build_data(
    config: Config, splits: Splits, tokenizer: "PreTrainedTokenizerBase", pooled: bool = False
) -> FederatedData:
    """Partition and tokenise; of the raw text only the validation part is kept."""
    judged_on = config.evaluation.split
    held_out = splits.validation if judged_on == "validation" else splits.test
    devices, owners = partition_rows(config, splits.train, held_out, pooled)
    as_tokens = partial(tokenize, tokenizer=tokenizer, max_length=config.data.max_length)
    return FederatedData(
        task=Classification(splits.train.label_names, splits.extra_metrics),
        train=as_tokens(splits.train),
        devices=devices,
        held_out=as_tokens(held_out),
        held_out_owners=owners,
        validation_rows=splits.validation,
        origin=splits.origin,
        judged_on=judged_on,
        tokenize=as_tokens,
        fingerprint=data_print(splits.source, splits.train, splits.validation, splits.test, devices),
    )
