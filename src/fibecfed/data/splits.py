"""Training, validation and test rows of a configuration. Needs neither torch nor a model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fibecfed.config import CAUSAL_LM, Config, settle, task_name
from fibecfed.data.apart import check_files_apart, check_rows_apart, shared_examples
from fibecfed.data.columns import Columns
from fibecfed.data.domains import named_sets, read_sets, without_test
from fibecfed.data.files import ANSWERS, FEW_ROWS, read_rows
from fibecfed.data.fingerprint import rows_print
from fibecfed.data.instructions import read_instructions
from fibecfed.data.labels import spelled_alike
from fibecfed.data.locations import find_files, skipped_sentence
from fibecfed.data.named import NamedDataset
from fibecfed.data.rows import Rows, draw, flip_labels, hold_out, joined
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
        return self.train.sites


def load_splits(config: Config) -> Splits:
    """Read the data that a configuration names and split it; all draws are seeded.

    The validation part is taken out of the training rows first, so that it is the same whatever ``train_examples`` and
    ``label_noise`` are. Where rows belong to the device they name every device gives its share to each part (see
    ``hold_out``). Raises InputError; see ``read_rows``, ``named_sets``, ``read_named``, ``check_files_apart`` and
    ``check_rows_apart``.
    """
    data, seed = config.data, config.seed
    extra: tuple[str, ...] = ()
    sets: tuple[NamedDataset, ...] = ()
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
    else:
        sets = named_sets(data.name)
        train, test, origin = read_sets(sets, data.dir, data.allow_download)
        extra = tuple(m for m in sets[0].extra_metrics if all(m in other.extra_metrics for other in sets))
    source = {"train": rows_print(train), "test": rows_print(test)}
    sites = train.sites
    by_device = settle(config, sites).data.partition.kind == "column"
    if by_device and data.file and test is not None and train.devices is not None and test.devices is None:
        origin += ", which names no devices: each device is tested on a part of it with the device's own label mix"
    untested = without_test(train, test)
    if test is None or len(untested):
        total, rng = round(data.test_fraction * len(untested)), stream(seed, "test split")
        part, rest = hold_out(train.take(untested), total, rng, by_device)
        tested = train.take(np.setdiff1d(np.arange(len(train)), untested, assume_unique=True))
        of = "" if test is None or part.domains is None else f" of {' and '.join(np.unique(part.domains))}"
        origin += f", a seeded stratified part{of} ({len(part)} of {len(untested)} examples) is held out for testing"
        test = part if test is None else joined([test, part])
        train = joined([tested, rest]) if len(tested) else rest
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
    if by_device and config.federation.devices is None and sites != train.sites:
        raise InputError(
            f"data.train_examples={data.train_examples} leaves training examples to {train.sites} of the {sites} "
            "devices only; raise it."
        )
    if train.domains is not None and len(found := np.unique(train.domains)) < len(sets):
        gone = next(one.name for one in sets if one.name not in found)
        raise InputError(f"data.train_examples={data.train_examples} leaves none of '{gone}'; raise it.")
    test = draw(test, data.test_examples, "test_examples", stream(seed, "test draw"), by_device)
    shared = shared_examples(train, {"test": test, "validation": validation})
    notes += [
        f"{count} of {len(part)} {name} examples have a text that is also a training text, word for word."
        for (name, count), part in zip(shared.items(), (test, validation), strict=True)
        if count
    ]
    train = flip_labels(train, data.label_noise, stream(seed, "label noise"))
    return Splits(train, validation, test, origin, extra, tuple(notes), shared, source)


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
    sites, settled = train.sites, settle(config, train.sites)
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
            f"{len(train)} rows have {labels} distinct labels, {once} of them in one row only, like answers; {ANSWERS}."
        )
    return found
