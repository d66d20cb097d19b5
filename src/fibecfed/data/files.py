"""Reading a user's own labelled text: CSV, TSV, JSONL, Parquet, a `datasets` folder, or one file per device."""

import difflib
import glob
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from fibecfed.data.rows import Rows
from fibecfed.errors import InputError

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")


@dataclass(frozen=True)
class Columns:
    """Which columns hold what, and how a CSV file separates them."""

    text: str
    text_pair: str | None
    label: str
    device: str | None = None
    separator: str = ","

    @property
    def needed(self) -> list[str]:
        return [c for c in (self.text, self.text_pair, self.label, self.device) if c]


def read_rows(location: str, columns: Columns, label_names: Sequence[str] | None = None) -> Rows:
    """The rows of a file, or of one file per device (a folder or glob).

    ``label_names`` fixes the labels (a test file uses those of training); None takes the sorted
    distinct labels found, numbers in numeric order.
    Raises InputError naming file and row for a missing file or column, empty text or label, or an unknown label.
    """
    paths = _paths(location)
    several = len(paths) > 1
    frames = [_read_frame(path, columns) for path in paths]
    for path, frame in zip(paths, frames, strict=True):
        _check_columns(path, frame, columns)
        _check_values(path, frame, columns)
    labels = [label for frame in frames for label in map(_label_text, frame[columns.label])]
    names = tuple(label_names) if label_names is not None else _sorted_labels(set(labels))
    index = {name: i for i, name in enumerate(names)}
    _check_labels(paths, frames, columns, index)
    devices: np.ndarray | None = None
    if columns.device:
        devices = np.array([str(d) for frame in frames for d in frame[columns.device]])
    elif several:
        devices = np.concatenate([np.full(len(f), p.stem) for p, f in zip(paths, frames, strict=True)])
    pair = columns.text_pair
    return Rows(
        texts=[str(t) for frame in frames for t in frame[columns.text]],
        pairs=[str(t) for frame in frames for t in frame[pair]] if pair else None,
        labels=np.array([index[label] for label in labels], dtype=np.int64),
        label_names=names,
        devices=devices,
    )


def _paths(location: str) -> list[Path]:
    path = Path(location)
    if path.is_file() or (path / "dataset_info.json").is_file():
        return [path]
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES)
        if not found:
            raise InputError(
                f"Folder '{path}' holds no {', '.join(SUFFIXES)} file and is no folder saved by `datasets`."
            )
        return found
    found = sorted(Path(p) for p in glob.glob(location))
    if not found:
        raise InputError(f"Data file '{location}' does not exist.")
    return found


def _read_frame(path: Path, columns: Columns) -> pd.DataFrame:
    if path.is_dir():
        return _read_datasets_folder(path)
    try:
        if path.suffix in (".csv", ".tsv"):
            separator = "\t" if path.suffix == ".tsv" else columns.separator
            return pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig")
        if path.suffix == ".jsonl":
            return _read_jsonl(path)
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
    except UnicodeDecodeError as error:
        raise InputError(f"'{path}' is not UTF-8 text (byte {error.start}); save it as UTF-8.") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, OSError) as error:
        raise InputError(f"'{path}' cannot be read as {path.suffix[1:]}: {' '.join(str(error).split())}.") from None
    raise InputError(f"'{path}' has the ending '{path.suffix}'; data files are {', '.join(SUFFIXES)}.")


def _read_jsonl(path: Path) -> pd.DataFrame:
    records = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(
                    f"'{path}' row {number} is not valid JSON: {error.msg} at column {error.colno}."
                ) from None
            if not isinstance(record, dict):
                raise InputError(
                    f'\'{path}\' row {number} must be a JSON object such as {{"text": ..., "label": ...}}.'
                )
            records.append(record)
    return pd.DataFrame.from_records(records)


def _read_datasets_folder(path: Path) -> pd.DataFrame:
    try:
        import datasets
    except ImportError:
        raise InputError(
            f"'{path}' was saved by `datasets`; install the extra that reads it: pip install 'fibecfed[hub]'."
        ) from None
    loaded = datasets.load_from_disk(str(path))
    if not isinstance(loaded, datasets.Dataset):
        raise InputError(f"'{path}' holds several splits ({', '.join(map(str, loaded))}); name one of its sub-folders.")
    frame = loaded.to_pandas()
    for name, feature in loaded.features.items():
        if isinstance(feature, datasets.ClassLabel):
            frame[name] = [feature.int2str(int(value)) for value in frame[name]]
    return frame


def _check_columns(path: Path, frame: pd.DataFrame, columns: Columns) -> None:
    present = [str(c) for c in frame.columns]
    for wanted in columns.needed:
        if wanted in present:
            continue
        key = next(k for k in ("text", "text_pair", "label", "device") if getattr(columns, k) == wanted)
        message = f"'{path}' has no column '{wanted}' (data.{key}); its columns are: {', '.join(present)}."
        other = next(
            (s for s in (";", "\t", "|") if path.suffix == ".csv" and len(present) == 1 and s in present[0]), None
        )
        if other:
            fields = present[0].split(other)
            message += f" The file seems to be separated by {other!r}: set data.separator={other!r}"
            message += "".join(
                f" data.{name}={match}"
                for name in ("text", "text_pair", "label", "device")
                if (match := _same_word(getattr(columns, name), fields)) and match != getattr(columns, name)
            )
            raise InputError(message + ".")
        nearest = _same_word(wanted, present)
        if nearest:
            message += f" Set data.{key}={nearest}."
        raise InputError(message)
    if frame.empty:
        raise InputError(f"'{path}' has no rows.")


def _same_word(wanted: str | None, present: Sequence[str]) -> str | None:
    if not wanted:
        return None
    folded = {p.strip().strip('"').lower(): p for p in present}
    near = difflib.get_close_matches(wanted.lower(), folded, n=1, cutoff=0.6)
    return folded[near[0]] if near else None


def _check_values(path: Path, frame: pd.DataFrame, columns: Columns) -> None:
    for column in columns.needed:
        missing = frame[column].isna() | (frame[column].astype(str).str.strip() == "")
        if missing.any():
            row = int(np.flatnonzero(missing.to_numpy())[0]) + 1
            more = f" ({int(missing.sum())} such rows in all)" if missing.sum() > 1 else ""
            raise InputError(
                f"'{path}' row {row} has an empty or missing '{column}'{more}; fill it in or remove the row."
            )


def _label_text(value: object) -> str:
    """A label as text; 1.0, which pandas makes of 1 beside a gap, is "1"."""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value).strip()


def _sorted_labels(labels: set[str]) -> tuple[str, ...]:
    numeric = all(label.lstrip("-").isdigit() for label in labels)
    return tuple(sorted(labels, key=int) if numeric else sorted(labels))


def _check_labels(paths: list[Path], frames: list[pd.DataFrame], columns: Columns, index: dict[str, int]) -> None:
    if len(index) < 2:
        raise InputError(
            f"'{paths[0]}' has {len(index)} distinct label in column '{columns.label}'; "
            "a classifier needs at least two."
        )
    if len(index) > 1000:
        raise InputError(
            f"'{paths[0]}' has {len(index)} distinct labels in column '{columns.label}'; "
            "is it the label column (data.label)?"
        )
    for path, frame in zip(paths, frames, strict=True):
        for row, value in enumerate(frame[columns.label], start=1):
            if _label_text(value) not in index:
                raise InputError(
                    f"'{path}' row {row} has the label '{_label_text(value)}', which the training data does not have; "
                    f"known labels: {', '.join(index)}."
                )
