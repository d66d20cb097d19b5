"""Reading a user's own labelled text: one file, or one file per device."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from fibecfed.data.columns import Columns
from fibecfed.data.formats import FileTable, read_table
from fibecfed.data.labels import disagreement, label_name, meaning, number_text
from fibecfed.data.locations import find_files
from fibecfed.data.rows import Rows
from fibecfed.errors import InputError, half_character

_MOST_LABELS = 1000
FEW_ROWS = 20  # below this many, every row may well have a label of its own
ANSWERS = "to learn answers to prompts, name their column as data.response (task.kind=causal-lm)"


def read_rows(
    location: str, columns: Columns, label_names: Sequence[str] | None = None, fewest_labels: int = 2
) -> Rows:
    """The rows of a file, or of one file per device (a folder or glob).

    ``label_names`` fixes the labels: a test file uses those of training, and may lack the device column. None takes
    the sorted distinct labels found, numbers in numeric order. Labels that look the same are one (``label_name``).
    Raises InputError for a missing or unreadable file, a missing column, an empty cell or one that is no text, an
    unknown label, files that write one label differently, and fewer than ``fewest_labels`` found. It names file and
    row, counted from 1 without the header, and the line.
    """
    optional = ("device",) if label_names is not None else ()
    found = find_files(location)
    tables = [read_table(path, columns, optional) for path in found.paths]
    texts = [text for table in tables for text in text_cells(table, columns.text)]
    pairs = [text for table in tables for text in text_cells(table, columns.text_pair)] if columns.text_pair else None
    labels = [names_of(table, columns.label) for table in tables]
    devices = devices_of(tables, columns.device, found.devices)
    if label_names is None:
        _check_agreement(tables, labels, devices)
        label_names = _sorted_labels({label for part in labels for label in part})
        _check_label_names(location, columns.label, label_names, len(texts), fewest_labels)
    else:
        label_names = label_list(label_names)
    index = {name: i for i, name in enumerate(label_names)}
    _check_known(tables, labels, index)
    return Rows(
        texts=texts,
        pairs=pairs,
        labels=np.array([index[label] for part in labels for label in part], dtype=np.int64),
        label_names=tuple(label_names),
        devices=devices,
    )


def label_list(names: Sequence[str]) -> tuple[str, ...]:
    """Labels that a user listed, as ``read_rows`` names them. Raises InputError if two are one."""
    listed = tuple(map(label_name, names))
    twice = next((name for name, count in Counter(listed).items() if count > 1), None)
    if twice is not None:
        raise InputError(f"A label is named twice (data.labels): '{twice}' in {', '.join(names)}.")
    return listed


def devices_of(tables: Sequence[FileTable], column: str | None, names: Sequence[str] | None) -> np.ndarray | None:
    """The device of each row: from its column, else from its file, else unknown."""
    having = [column is not None and column in table.cells for table in tables]
    if column is not None and any(having):
        if not all(having):
            lacking = tables[having.index(False)].path
            raise InputError(f"'{lacking}' has no column '{column}' (data.device), which the other files have.")
        return np.array([name for table in tables for name in names_of(table, column)])
    if names is None:
        return None
    return np.repeat(np.array(names), [len(table) for table in tables])


def names_of(table: FileTable, column: str) -> list[str]:
    """The cells of a column as names of labels or devices."""
    cells = text_cells(table, column)
    names = {cell: label_name(cell) for cell in set(cells)}
    unseen = next((row for row, cell in enumerate(cells) if not names[cell]), None)
    if unseen is not None:
        raise InputError(f"{table.place(unseen)} has only invisible characters as '{column}'; write a name.")
    return [names[cell] for cell in cells]


def text_cells(table: FileTable, column: str) -> list[str]:
    """The cells of a column as text. Raises InputError naming the first that is empty or no text."""
    cells = table.cells[column]
    empty = [row for row, value in enumerate(cells) if is_empty(value)]
    if empty:
        more = f" ({len(empty)} such rows in all)" if len(empty) > 1 else ""
        raise InputError(
            f"{table.place(empty[0])} has an empty or missing '{column}'{more}; fill it in or remove the row."
        )
    for row, value in enumerate(cells):
        if not isinstance(value, str) and isinstance(value, bytes | Mapping | Sequence | np.ndarray):
            kind = type(value).__name__
            raise InputError(f"{table.place(row)} has a {kind} as '{column}'; one text or number is needed.")
        if isinstance(value, str) and (half := half_character(value)) is not None:
            raise InputError(f"{table.place(row)} has {half}, in '{column}'; remove it, or write the whole character.")
    return [cell_text(value) for value in cells]


def is_empty(value: object) -> bool:
    """Whether a cell holds nothing: None, NaN, or white space."""
    return value is None or (isinstance(value, float) and math.isnan(value)) or not str(value).strip()


def cell_text(value: object) -> str:
    """A cell as text; 1.0, which a format without gaps in whole numbers makes of 1, is "1"."""
    return number_text(value) if isinstance(value, float) else str(value)


def _sorted_labels(labels: set[str]) -> tuple[str, ...]:
    if all(re.fullmatch(r"-?[0-9]+", label) for label in labels):
        return tuple(sorted(labels, key=lambda label: (int(label), label)))
    return tuple(sorted(labels))


def _check_agreement(tables: Sequence[FileTable], labels: Sequence[Sequence[str]], devices: np.ndarray | None) -> None:
    """Refuse sites (devices, else files) that write one label differently: it would be two."""
    sites: dict[str, set[str]] = {}
    start = 0
    for table, part in zip(tables, labels, strict=True):
        owners = [""] * len(part) if devices is None else devices[start : start + len(part)].tolist()
        start += len(part)
        for owner, label in dict.fromkeys(zip(owners, part, strict=True)):
            where = f"'{table.path}'" + (f" (device '{owner}')" if owner else "")
            sites.setdefault(where, set()).add(label)
    found = disagreement(list(sites.values()))
    if found is not None:
        one, label, other, another = found
        places = list(sites)
        raise InputError(
            f"{places[one]} has the label '{label}' and {places[other]} has '{another}': write it alike in both, or "
            "name both in data.labels if they are different labels."
        )


def _check_label_names(location: str, column: str, names: Sequence[str], rows: int, fewest: int) -> None:
    if len(names) < fewest:
        raise InputError(
            f"'{location}' has one label only in column '{column}': '{names[0]}'; a classifier needs at least two."
        )
    if len(names) > _MOST_LABELS or (len(names) == rows and rows > FEW_ROWS):
        way_out = ""
        if len(names) > _MOST_LABELS:
            way_out = (
                f" If so, give the rare labels one name together, such as 'other': at most {_MOST_LABELS:,} are read."
            )
        raise InputError(
            f"'{location}' has {len(names)} distinct labels in {rows} rows in column '{column}'; "
            f"is it the label column (data.label)?{way_out} {ANSWERS[0].upper()}{ANSWERS[1:]}."
        )


def _check_known(tables: Sequence[FileTable], labels: Sequence[Sequence[str]], index: Mapping[str, int]) -> None:
    for table, part in zip(tables, labels, strict=True):
        row = next((row for row, label in enumerate(part) if label not in index), None)
        if row is not None:
            known = ", ".join(list(index)[:20]) + (f" and {len(index) - 20} more" if len(index) > 20 else "")
            alike = next((name for name in index if meaning(name) == meaning(part[row])), None)
            advice = f" Write it '{alike}'." if alike is not None else ""
            raise InputError(
                f"{table.place(row)} has the label '{part[row]}', which the training data does not have; "
                f"known labels: {known}.{advice}"
            )
