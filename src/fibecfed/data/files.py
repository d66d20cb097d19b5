"""Reading a user's own labelled text: one file, or one file per device."""

import glob
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fibecfed.data.columns import Columns
from fibecfed.data.formats import SUFFIXES, Table, read_table
from fibecfed.data.rows import Rows
from fibecfed.errors import InputError, half_character

_MOST_LABELS = 1000
_FEW_ROWS = 20  # below this many, every row may well have a label of its own


def read_rows(
    location: str, columns: Columns, label_names: Sequence[str] | None = None, fewest_labels: int = 2
) -> Rows:
    """The rows of a file, or of one file per device (a folder or glob).

    ``label_names`` fixes the labels: a test file uses those of training, and may lack the device column. None takes
    the sorted distinct labels found, numbers in numeric order.
    Raises InputError for a missing or unreadable file, a missing column, an empty cell or one that is no text, an
    unknown label, and fewer than ``fewest_labels`` found; it names file and row, counted from 1 without the header,
    and the line.
    """
    optional = ("device",) if label_names is not None else ()
    paths, one_each = _paths(location)
    tables = [read_table(path, columns, optional) for path in paths]
    texts = [text for table in tables for text in _column(table, columns.text)]
    pairs = [text for table in tables for text in _column(table, columns.text_pair)] if columns.text_pair else None
    labels = [[_name(value) for value in _column(table, columns.label)] for table in tables]
    if label_names is None:
        label_names = _sorted_labels({label for part in labels for label in part})
        _check_label_names(location, columns.label, label_names, len(texts), fewest_labels)
    index = {name: i for i, name in enumerate(label_names)}
    if len(index) < len(label_names):
        raise InputError(f"A label is named twice (data.labels): {', '.join(label_names)}.")
    _check_known(tables, labels, index)
    return Rows(
        texts=texts,
        pairs=pairs,
        labels=np.array([index[label] for part in labels for label in part], dtype=np.int64),
        label_names=tuple(label_names),
        devices=_devices(tables, columns.device, _device_names(location, paths) if one_each else None),
    )


def _paths(location: str) -> tuple[list[Path], bool]:
    """The files meant, and whether each belongs to a device of its own."""
    path = Path(location).expanduser()
    if path.is_file() or _saved_by_datasets(path):
        return [path], False
    found = sorted(path.iterdir() if path.is_dir() else map(Path, glob.glob(str(path), recursive=True)))
    usable = [p for p in found if _saved_by_datasets(p) or (p.is_file() and p.suffix.lower() in SUFFIXES)]
    if usable:
        return usable, True
    if path.is_dir():
        raise InputError(f"Folder '{path}' holds no {', '.join(SUFFIXES)} file and is no folder saved by `datasets`.")
    if found:
        raise InputError(f"'{location}' matches {found[0]}; data files are {', '.join(SUFFIXES)}.")
    raise InputError(f"Data file '{location}' does not exist.")


def _saved_by_datasets(path: Path) -> bool:
    return any((path / name).is_file() for name in ("dataset_info.json", "dataset_dict.json"))


def _device_names(location: str, paths: Sequence[Path]) -> list[str]:
    """A device for each file: sites/north.csv and sites/north/data.csv (from ``sites/*/data.csv``) are both north."""
    by_folder = not Path(location).expanduser().is_dir() and not set("*?[") & set(Path(location).name)
    names = [path.parent.name if by_folder else path.stem for path in paths]
    if len(set(names)) < len(names):
        common = os.path.commonpath([path.parent for path in paths])
        whole = [path.relative_to(common).with_suffix("") for path in paths]
        names = [(path.parent if by_folder else path).as_posix() for path in whole]
    doubled = next((name for name in names if names.count(name) > 1), None)
    if doubled is not None:
        first, second = [path for path, name in zip(paths, names, strict=True) if name == doubled][:2]
        raise InputError(f"'{first}' and '{second}' would both be the device '{doubled}'; rename one.")
    return names


def _devices(tables: Sequence[Table], column: str | None, names: Sequence[str] | None) -> np.ndarray | None:
    """The device of each row: from its column, else from its file, else unknown."""
    having = [column is not None and column in table.cells for table in tables]
    if column is not None and any(having):
        if not all(having):
            lacking = tables[having.index(False)].path
            raise InputError(f"'{lacking}' has no column '{column}' (data.device), which the other files have.")
        return np.array([_name(value) for table in tables for value in _column(table, column)])
    if names is None:
        return None
    return np.repeat(np.array(names), [len(table) for table in tables])


def _column(table: Table, column: str) -> list[str]:
    """The cells of a column as text. Raises InputError naming the first that is empty or no text."""
    cells = table.cells[column]
    empty = [row for row, value in enumerate(cells) if _is_empty(value)]
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
    return [_text(value) for value in cells]


def _is_empty(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value)) or not str(value).strip()


def _text(value: object) -> str:
    """A cell as text; 1.0, which a format without gaps in whole numbers makes of 1, is "1"."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _name(text: str) -> str:
    return text.strip()


def _sorted_labels(labels: set[str]) -> tuple[str, ...]:
    if all(re.fullmatch(r"-?[0-9]+", label) for label in labels):
        return tuple(sorted(labels, key=lambda label: (int(label), label)))
    return tuple(sorted(labels))


def _check_label_names(location: str, column: str, names: Sequence[str], rows: int, fewest: int) -> None:
    if len(names) < fewest:
        raise InputError(
            f"'{location}' has one label only in column '{column}': '{names[0]}'; a classifier needs at least two."
        )
    if len(names) > _MOST_LABELS or (len(names) == rows and rows > _FEW_ROWS):
        raise InputError(
            f"'{location}' has {len(names)} distinct labels in {rows} rows in column '{column}'; "
            "is it the label column (data.label)?"
        )


def _check_known(tables: Sequence[Table], labels: Sequence[Sequence[str]], index: Mapping[str, int]) -> None:
    for table, part in zip(tables, labels, strict=True):
        row = next((row for row, label in enumerate(part) if label not in index), None)
        if row is not None:
            known = ", ".join(list(index)[:20]) + (f" and {len(index) - 20} more" if len(index) > 20 else "")
            raise InputError(
                f"{table.place(row)} has the label '{part[row]}', which the training data does not have; "
                f"known labels: {known}."
            )
