"""Whether training and test data are apart: what is refused, and what is counted."""

from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np

from fibecfed.data.locations import find_files
from fibecfed.data.rows import Rows
from fibecfed.errors import InputError


def check_files_apart(file: str, test_file: str) -> None:
    """Raise InputError for a test file that is trained on: one of data.file's, or the same under another name."""
    train = find_files(file)
    for test in find_files(test_file).paths:
        for number, path in enumerate(train.paths):
            if path.samefile(test):
                device = f", the device '{train.devices[number]}'" if train.devices else ""
                raise InputError(
                    f"The test file '{test}' is also trained on (data.file={file}{device}): move it elsewhere, or "
                    "leave data.test_file out to have a part of the data held out."
                )


def check_rows_apart(train: Rows, test: Rows, file: str, test_file: str) -> None:
    """Raise InputError if all test rows, or those of a device, are just all training rows, or those of a device.

    Their order does not count. Rows of both have the same ``label_names``.
    """
    sizes = {len(rows) for _, rows in _parts(test)}
    trained = {_content(rows): whose for whose, rows in _parts(train) if len(rows) in sizes}
    for tested, rows in _parts(test):
        whose = trained.get(_content(rows)) if trained else None
        if whose is not None:
            raise InputError(
                f"The test data{tested} ('{test_file}') is the training data{whose} ('{file}'), row by row: a result "
                "on it would say nothing. Use other rows, or leave data.test_file out to have a part held out."
            )


def _parts(rows: Rows) -> Iterator[tuple[str, Rows]]:
    """The rows of each device, and all of them, each with words for whose they are."""
    if rows.devices is not None:
        order = np.argsort(rows.devices, kind="stable")
        names, starts = np.unique(rows.devices[order], return_index=True)
        for name, positions in zip(names, np.split(order, starts[1:]), strict=True):
            yield f" of the device '{name}'", rows.take(positions)
    yield "", rows


def _content(rows: Rows) -> frozenset[tuple[object, int]]:
    return frozenset(Counter(zip(_texts(rows), rows.labels.tolist(), strict=True)).items())


def shared_examples(train: Rows, held_out: Mapping[str, Rows]) -> dict[str, int]:
    """How many texts (or pairs) of each split are training texts, too, word for word."""
    known = set(_texts(train))
    return {name: sum(text in known for text in _texts(rows)) for name, rows in held_out.items()}


def _texts(rows: Rows) -> Iterator[tuple[str, str]]:
    pairs = rows.pairs if rows.pairs is not None else [""] * len(rows)
    return ((text.strip(), pair.strip()) for text, pair in zip(rows.texts, pairs, strict=True))
