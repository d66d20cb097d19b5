"""One file of labelled text as columns of cells: CSV, TSV, JSONL, Parquet, or a folder saved by `datasets`."""

import codecs
import csv
import dataclasses
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import pyarrow
import pyarrow.parquet

from fibecfed.commands import extra_install
from fibecfed.data.columns import AnyColumns, check_header
from fibecfed.data.labels import visible
from fibecfed.errors import InputError

_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_HEAD_BYTES = 200
_PADDING = 20  # blanks and marks around a name
_SEPARATOR_LINE = re.compile('"?sep=(.)"?', re.IGNORECASE)  # by which Excel tells Excel
_LONGEST_CELL = 2**31 - 1  # characters; the csv module's own limit is 131,072
_ADVICE = {
    ".json": "write one JSON object a line and call it .jsonl",
    ".ndjson": "call it .jsonl",
    ".xlsx": "save the sheet as CSV UTF-8",
    ".xls": "save the sheet as CSV UTF-8",
    ".ods": "save the sheet as CSV UTF-8",
    ".txt": "call it .csv or .tsv if it has columns",
    ".gz": "unpack it first",
    ".zip": "unpack it first",
    ".pq": "call it .parquet",
}


@dataclass(frozen=True)
class FileTable:
    """The columns that were asked for, N cells each, and the line each row begins on."""

    path: Path
    cells: Mapping[str, Sequence[object]]
    lines: Sequence[int] | None = None  # (N,) counted from 1; None where the file has no lines

    def __len__(self) -> int:
        return len(next(iter(self.cells.values())))

    def place(self, row: int) -> str:
        """Where row number ``row`` (from 0) is: rows counted from 1 without a header, and the line an editor shows."""
        return _place(self.path, row, self.lines[row] if self.lines is not None else None)


def _place(path: Path, row: int, line: int | None) -> str:
    return f"'{path}' row {row + 1}" + (f" (line {line})" if line is not None and line != row + 1 else "")


def read_table(path: Path, columns: AnyColumns, optional: Collection[str] = ()) -> FileTable:
    """The needed columns of one file; columns of ``optional`` keys only where the file has them.

    Raises InputError for an unknown ending, a file that cannot be read as what its ending says, text that is not
    UTF-8, missing or doubled columns, and a file without rows; where there is one, it names the row.
    """
    if path.is_dir():
        table = _read_datasets_folder(path, columns, optional)
    else:
        suffix = path.suffix.lower()
        reader = _READERS.get(suffix)
        if reader is None:
            advice = f"; {_ADVICE[suffix]}" if suffix in _ADVICE else ""
            raise InputError(f"'{path}' has the ending '{path.suffix}'; data files are {', '.join(SUFFIXES)}{advice}.")
        try:
            if suffix != ".parquet":
                _check_no_utf16(path)
            table = reader(path, columns, optional)
        except UnicodeDecodeError:
            raise _not_utf8(path) from None
        except (OSError, pyarrow.ArrowException) as error:
            raise InputError(f"'{path}' cannot be read as {suffix[1:]}: {' '.join(str(error).split())}") from None
    if not len(table):
        raise InputError(f"'{path}' has no rows.")
    _check_no_header_within(table)
    return table


def _check_no_utf16(path: Path) -> None:
    """Raise InputError for UTF-16 without its mark, which as UTF-8 is a header with a zero after every letter."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if head.count(0) > len(head) // 4 and not head.startswith(_UTF16_MARKS):
        raise _utf16_without_mark(path)


def _check_no_header_within(table: FileTable) -> None:
    """Refuse a row that repeats the names of the columns: a trace of files put together, and a label of its own."""
    repeats = _repeats(list(table.cells))
    for row, cells in enumerate(zip(*table.cells.values(), strict=True)):
        if repeats(cells):
            raise _header_within(table.place(row))


def _repeats(header: Sequence[str]) -> Callable[[Sequence[object]], bool]:
    """Whether cells are the names of the columns again, in whatever order; never where there is one column only."""
    names, longest = sorted(visible(name).casefold() for name in header), max(map(len, header)) + _PADDING

    def repeated(cells: Sequence[object]) -> bool:
        return (
            len(cells) == len(names) > 1
            and all(isinstance(cell, str) and len(cell) <= longest for cell in cells)
            and sorted(visible(str(cell)).casefold() for cell in cells) == names
        )

    return repeated


def _header_within(place: str) -> InputError:
    return InputError(f"{place} repeats the header, as where files were put together; remove that row.")


def _wanted(present: Collection[str], columns: AnyColumns) -> list[str]:
    return list(dict.fromkeys(name for name in columns.keys.values() if name in present))


def _read_csv(path: Path, columns: AnyColumns, optional: Collection[str]) -> FileTable:
    with path.open(encoding="utf-8-sig", newline="") as file:
        head, separator = _head(file)
        columns = dataclasses.replace(columns, separator=separator or columns.separator)
        first = head[-1] if head else ""
        if first.strip() and columns.separator not in first:  # before quotation marks that another separator explains
            check_header(path, [first.strip()], columns, optional)
        return _delimited(path, _records(path, chain(head, file), columns.separator), columns, optional)


def _read_tsv(path: Path, columns: AnyColumns, optional: Collection[str]) -> FileTable:
    """Tab-separated text with or without quoting.

    Where every line has the header's number of tabs each line is a row, so that a stray quotation mark
    cannot swallow the rows after it; otherwise the file is read as CSV is.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        head, separator = _head(file)
        lines = [line.rstrip("\r\n") for line in chain(head, file)]
    tabs = {line.count("\t") for line in lines if line.strip()}
    if len(tabs) == 1 and separator in (None, "\t"):
        return _delimited(path, _plain_records(lines), columns, optional)
    return _delimited(path, _records(path, (f"{line}\n" for line in lines), separator or "\t"), columns, optional)


def _head(lines: Iterator[str]) -> tuple[list[str], str | None]:
    """The lines up to the header, and the separator that a line ``sep=;`` before it names (a blank in its place)."""
    head: list[str] = []
    separator = None
    for line in lines:
        head.append(line)
        told = _SEPARATOR_LINE.fullmatch(line.strip("\r\n ")) if separator is None else None
        if told:
            separator, head[-1] = told[1], "\n"
        elif line.strip():
            break
    return head, separator


def _delimited(
    path: Path, records: Iterator[tuple[int, list[str]]], columns: AnyColumns, optional: Collection[str]
) -> FileTable:
    first = next(records, None)
    if first is None:
        raise InputError(f"'{path}' is empty.")
    header = [name.strip() for name in first[1]]
    check_header(path, header, columns, optional)
    places = {name: header.index(name) for name in _wanted(header, columns)}
    cells: dict[str, list[str]] = {name: [] for name in places}
    lines: list[int] = []
    repeats = _repeats(header)
    for line, fields in records:
        if repeats(fields):
            raise _header_within(_place(path, len(lines), line))
        if any(field.strip() for field in fields[len(header) :]):
            raise InputError(
                f"{_place(path, len(lines), line)} has {len(fields)} columns where the header has {len(header)}; "
                "put a text that holds the separator into quotation marks."
            )
        for name, place in places.items():
            cells[name].append(fields[place] if place < len(fields) else "")
        lines.append(line)
    return FileTable(path, cells, lines)


def _records(path: Path, file: Iterable[str], separator: str) -> Iterator[tuple[int, list[str]]]:
    """The line each record begins on, and its fields; blank lines are skipped."""
    limit = csv.field_size_limit(_LONGEST_CELL)
    try:
        reader = csv.reader(file, delimiter=separator, skipinitialspace=True, strict=True)
        row, line = -1, 1  # the header is no row
        while True:
            try:
                fields = next(reader, None)
            except csv.Error as error:
                where = f"'{path}' header" if row < 0 else _place(path, row, line)
                raise InputError(
                    f"{where} has quotation marks that do not match ({error}); a text that begins with one must "
                    "end with one, and those inside it are doubled."
                ) from None
            if fields is None:
                return
            if any(field.strip() for field in fields):
                yield line, fields
                row += 1
            line = reader.line_num + 1
    finally:
        csv.field_size_limit(limit)


def _plain_records(lines: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        fields = line.split("\t")
        if '"' in line:
            try:
                unquoted = next(csv.reader([line], delimiter="\t", strict=True))
            except csv.Error:
                unquoted = []  # a text with quotation marks of its own
            fields = unquoted if len(unquoted) == len(fields) else fields
        yield number, fields


def _whole(digits: str) -> int | str:
    """A whole number; one with more digits than Python reads stays text."""
    try:
        return int(digits)
    except ValueError:
        return digits


class _Twice(Exception):
    """A JSON object has this key more than once, of which JSON readers silently take the last."""


def _once_each(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _Twice(next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1))
    return found


def _read_jsonl(path: Path, columns: AnyColumns, optional: Collection[str]) -> FileTable:
    records: list[dict[str, object]] = []
    lines: list[int] = []
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = _place(path, len(records), number)
            try:
                record = json.loads(line, parse_int=_whole, object_pairs_hook=_once_each)
            except _Twice as twice:
                raise InputError(f"{where} has the key '{twice}' more than once; keep one.") from None
            except (json.JSONDecodeError, RecursionError) as error:
                reason = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else "depth"
                raise InputError(f"{where} is not valid JSON ({reason}); every line must be one object.") from None
            if not isinstance(record, dict):
                wanted = ", ".join(f"{json.dumps(name, ensure_ascii=False)}: ..." for name in columns.keys.values())
                raise InputError(f"{where} must be a JSON object such as {{{wanted}}}.")
            records.append(record)
            lines.append(number)
    if not records:
        raise InputError(f"'{path}' is empty.")
    present = list(dict.fromkeys(name for record in records for name in record))
    check_header(path, present, columns, optional)
    return FileTable(path, {name: [r.get(name) for r in records] for name in _wanted(present, columns)}, lines)


def _read_parquet(path: Path, columns: AnyColumns, optional: Collection[str]) -> FileTable:
    present = pyarrow.parquet.read_schema(path).names
    check_header(path, present, columns, optional)
    wanted = _wanted(present, columns)
    # partitioning: no columns made up from a path such as site=3/
    table = pyarrow.parquet.read_table(path, columns=wanted, partitioning=None)
    return FileTable(path, {name: table[name].to_pylist() for name in wanted})


def _read_datasets_folder(path: Path, columns: AnyColumns, optional: Collection[str]) -> FileTable:
    try:
        import datasets
    except ImportError:
        raise InputError(
            f"'{path}' was saved by `datasets`; install the extra that reads it: {extra_install('hub')}"
        ) from None
    try:
        loaded = datasets.load_from_disk(str(path))
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise InputError(f"'{path}' cannot be read by `datasets`: {' '.join(str(error).split())}") from None
    if not isinstance(loaded, datasets.Dataset):
        splits = ", ".join(map(str, loaded))
        raise InputError(f"'{path}' holds several splits ({splits}); set data.file={path / str(next(iter(loaded)))}")
    check_header(path, loaded.column_names, columns, optional)
    cells: dict[str, Sequence[object]] = {}
    for name in _wanted(loaded.column_names, columns):
        feature, cells[name] = loaded.features[name], list(loaded[name])
        if isinstance(feature, datasets.ClassLabel):  # -1 stands for a missing label
            cells[name] = [None if v is None or v < 0 else feature.int2str(v) for v in loaded[name]]
    return FileTable(path, cells)


_READERS: dict[str, Callable[[Path, AnyColumns, Collection[str]], FileTable]] = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}
SUFFIXES = tuple(_READERS)


def _not_utf8(path: Path) -> InputError:
    content = path.read_bytes()
    if content.startswith(_UTF16_MARKS):
        return InputError(f"'{path}' is UTF-16 text; save it as UTF-8.")
    if b"\0" in content:
        return _utf16_without_mark(path)
    try:
        content.decode("utf-8")
        at = 0
    except UnicodeDecodeError as error:
        at = error.start
    line = content.count(b"\n", 0, at) + 1
    return InputError(
        f"'{path}' line {line} is not UTF-8 text (perhaps Latin-1 or Windows-1252); save the file as UTF-8."
    )


def _utf16_without_mark(path: Path) -> InputError:
    return InputError(
        f"'{path}' seems to be UTF-16 text (without the mark that says so, but with zero bytes); save it as "
        'UTF-8, in Excel as "CSV UTF-8".'
    )
