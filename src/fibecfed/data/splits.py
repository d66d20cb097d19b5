"""Training, validation and test rows of a configuration, and who holds them. Needs neither torch nor a model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fibecfed.config import CAUSAL_LM, Config, nearest_hint, settle, task_name
from fibecfed.data.apart import check_files_apart, check_rows_apart, shared_examples
from fibecfed.data.columns import Columns
from fibecfed.data.files import FEW_ROWS, NO_GENERATION, read_rows
from fibecfed.data.fingerprint import rows_print
from fibecfed.data.instructions import SETS, read_instructions
from fibecfed.data.labels import spelled_alike
from fibecfed.data.locations import find_files, skipped_sentence
from fibecfed.data.named import DATASETS, SUPPORT, dataset_names, read_named
from fibecfed.data.partition import Partition, partition, partition_like
from fibecfed.data.rows import Rows, draw, flip_labels, hold_out
from fibecfed.errors import InputError
from fibecfed.seeding import stream


@dataclass(frozen=True)
class Splits:
    """Training, validation and test rows, and a sentence on how they came about."""

    train: Rows
    validation: Rows
    test: Rows
    origin: str
    extra_metrics: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()  # sentences on the data that a user should see
    shared: Mapping[str, int] = field(default_factory=dict)  # by split: examples whose text is also a training text
    source: Mapping[str, Any] = field(default_factory=dict)  # what the rows were as they were read, before any draw

    @property
    def sites(self) -> int | None:
        """How many devices the training rows name; None where they name none."""
        return _sites(self.train)


def load_splits(config: Config) -> Splits:
    """Read the data that a configuration names and split it; all draws are seeded.

    The validation part is taken out of the training rows first, so that it is the same whatever ``train_examples`` and
    ``label_noise`` are. Where rows belong to the device they name every device gives its share to each part (see
    ``hold_out``). Raises InputError; see ``read_rows``, ``read_named``, ``check_files_apart`` and ``check_rows_apart``.
    """
    data, seed = config.data, config.seed
    extra: tuple[str, ...] = ()
    notes: list[str] = []
    if task_name(config) == CAUSAL_LM:
        train, test, origin = _read_instructions(config)
        learned = "all tokens" if data.train_on == "all" else "tokens of responses"
        notes = [f"A language model is tuned (task.kind=causal-lm), with its loss on {learned}."]
        notes += _notes_on_sites(config, train)
    elif data.file:
        train, test, origin = _read_files(config)
        notes = _notes_on_files(config, train)
    elif data.labels is not None:
        raise InputError(f"data.labels belongs to data.file; the data set '{data.name}' has labels of its own.")
    elif data.name in dataset_names():
        train, test, origin = read_named(data.name, data.dir, data.allow_download)
        extra = DATASETS[data.name].extra_metrics if data.name != SUPPORT.name else ()
    else:
        known = [*dataset_names(), *SETS]
        raise InputError(
            f"Unknown data set '{data.name}' (data.name).{nearest_hint(data.name, known)} "
            f"Known: {', '.join(known)}; for your own file set data.file."
        )
    source = {"train": rows_print(train), "test": rows_print(test)}
    sites = _sites(train)
    by_device = settle(config, sites).data.partition.kind == "column"
    if by_device and data.file and test is not None and train.devices is not None and test.devices is None:
        origin += ", which names no devices: each device is tested on a part of it with the device's own label mix"
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
    if by_device and config.federation.devices is None and sites != _sites(train):
        raise InputError(
            f"data.train_examples={data.train_examples} leaves training examples to {_sites(train)} of the {sites} "
            "devices only; raise it."
        )
    test = draw(test, data.test_examples, "test_examples", stream(seed, "test draw"), by_device)
    shared = shared_examples(train, {"test": test, "validation": validation})
    notes += [
        f"{count} of {len(part)} {name} examples have a text that is also a training text, word for word."
        for (name, count), part in zip(shared.items(), (test, validation), strict=True)
        if count
    ]
    train = flip_labels(train, data.label_noise, stream(seed, "label noise"))
    return Splits(train, validation, test, origin, extra, tuple(notes), shared, source)


def _sites(rows: Rows) -> int | None:
    return None if rows.devices is None else len(np.unique(rows.devices))


def _read_files(config: Config) -> tuple[Rows, Rows | None, str]:
    data = config.data
    assert data.file is not None
    columns = Columns(data.text, data.text_pair, data.label, data.device, data.separator)
    if data.test_file is not None:
        check_files_apart(data.file, data.test_file)
    train = read_rows(data.file, columns, data.labels)
    if data.device is not None and train.devices is None:
        raise InputError(f"'{data.file}' has no column '{data.device}' (data.device).")
    if data.test_file is None:
        return train, None, f"{data.file}; no test file"
    test = read_rows(data.test_file, columns, train.label_names)
    check_rows_apart(train, test, data.file, data.test_file)
    return train, test, f"{data.file}; tested on {data.test_file}"


def _read_instructions(config: Config) -> tuple[Rows, Rows | None, str]:
    data = config.data
    if data.file is not None and data.test_file is not None:
        check_files_apart(data.file, data.test_file)
    train, test, origin = read_instructions(config)
    if data.file is not None and data.test_file is not None and test is not None:
        check_rows_apart(train, test, data.file, data.test_file)
    return train, test, origin


def _notes_on_sites(config: Config, train: Rows) -> list[str]:
    """What a user should know of their own files: what was not read, and whose devices are used."""
    data = config.data
    found = [skipped_sentence(path, find_files(path)) for path in (data.file, data.test_file) if path is not None]
    sites, settled = _sites(train), settle(config, _sites(train))
    kind = settled.data.partition.kind
    if sites is not None and kind != "column":
        found.append(
            f"The data names {'one device' if sites == 1 else f'{sites} devices'}, but its rows are dealt anew to "
            f"{settled.federation.devices} (data.partition.kind={kind}); data.partition.kind=column keeps them."
        )
    return [sentence for sentence in found if sentence is not None]


def _notes_on_files(config: Config, train: Rows) -> list[str]:
    """What a user should know of their own labelled files, beside that: what cannot be learned."""
    data, found = config.data, _notes_on_sites(config, train)
    found += [
        f"The labels '{one}' and '{other}' are two: write them alike if they should be one."
        for one, other in spelled_alike(train.label_names if data.labels is None else ())
    ]
    counts = np.bincount(train.labels)
    labels, once = int((counts > 0).sum()), int((counts == 1).sum())
    if labels > FEW_ROWS and (2 * once > labels or 2 * labels > len(train)):
        found.append(
            f"{len(train)} rows have {labels} distinct labels, {once} of them in one row only, like answers to "
            f"prompts; {NO_GENERATION}."
        )
    return found


def partition_rows(config: Config, train: Rows, held_out: Rows, pooled: bool = False) -> tuple[Partition, Partition]:
    """Who holds which training and which held-out example; ``pooled`` gives everything to one device.

    Where rows belong to the device they name, held-out rows that name one go to it as well;
    otherwise held-out shards follow each device's own label proportions (docs/method.md section 1).
    """
    config = settle(config, _sites(train))
    classes = len(train.label_names)
    if pooled:
        return (
            Partition(np.arange(len(train)), np.array([0, len(train)]), None),
            Partition(np.arange(len(held_out)), np.array([0, len(held_out)]), None),
        )
    settings, devices = config.data.partition, config.federation.device_count
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
