"""Texts to be labelled by a finished run: arguments, lines of text, or a file with the run's own columns."""

import codecs
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fibecfed.config import CAUSAL_LM, Config, task_name
from fibecfed.data.columns import Columns
from fibecfed.data.domains import named_sets
from fibecfed.data.files import cell_text, is_empty
from fibecfed.data.formats import SUFFIXES, FileTable, read_table
from fibecfed.data.instructions import instruction_columns
from fibecfed.data.labels import label_name
from fibecfed.errors import InputError

# Endings of files with columns, among them those that ``read_table`` refuses with advice. Others hold lines of text.
_TABLES = (*SUFFIXES, ".json", ".ndjson", ".xlsx", ".xls", ".ods", ".gz", ".zip", ".pq")


@dataclass(frozen=True)
class Asked:
    """N texts to label, in the order they were given."""

    texts: Sequence[str]
    pairs: Sequence[str] | None  # (N,) second texts, for a model that reads two
    places: Sequence[str]  # (N,) where each stands, for messages
    problems: Sequence[str | None]  # (N,) why one cannot be labelled; None: nothing is wrong so far
    labels: Sequence[str | None] | None = None  # (N,) what the file says is right; None: it says nothing

    def __len__(self) -> int:
        return len(self.texts)


def columns_of(config: Config) -> Columns:
    """The columns that the texts and labels of a run have."""
    data = config.data
    if data.file:
        return Columns(data.text, data.text_pair, data.label, None, data.separator)
    first, *second = named_sets(data.name)[0].columns
    return Columns(first, second[0] if second else None, "label")


def text_columns(config: Config) -> tuple[str, ...]:
    """The columns with the texts of a run: one, a pair, or those of prompts and responses."""
    if task_name(config) == CAUSAL_LM:
        return tuple(instruction_columns(config).values())
    columns = columns_of(config)
    return tuple(name for name in (columns.text, columns.text_pair) if name)


def from_arguments(texts: Sequence[str], columns: Columns) -> Asked:
    """Each argument is a text; for a model that reads two, both with a tab between them."""
    return _asked(texts, [f"text {i}" for i in range(1, len(texts) + 1)], columns)


def from_lines(content: bytes, where: str, columns: Columns) -> Asked:
    """Each line is a text, as ``from_arguments`` has them; blank lines keep their place.

    Only line feeds and carriage returns end a line. Raises InputError for what is no UTF-8 text as a whole.
    """
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in content:
        raise InputError(f"{where} is no UTF-8 text (perhaps UTF-16, or no text at all); save it as UTF-8.")
    content = content.removeprefix(codecs.BOM_UTF8).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    lines = content.removesuffix(b"\n").split(b"\n") if content else []
    # What is not UTF-8 becomes half a character each, which ``_problem`` finds.
    texts = [line.decode("utf-8", errors="surrogateescape") for line in lines]
    return _asked(texts, [f"{where} line {i}" for i in range(1, len(texts) + 1)], columns)


def from_file(path: Path, columns: Columns) -> Asked:
    """A file with the run's columns, or with lines of text where its ending is none of such files.

    Labels are read if their column is there. Raises InputError if the file cannot be read or lacks a text's column.
    """
    path = path.expanduser()
    if not path.exists():
        raise InputError(f"File '{path}' does not exist.")
    if not path.is_dir() and path.suffix.lower() not in _TABLES:
        try:
            return from_lines(path.read_bytes(), f"'{path}'", columns)
        except OSError as error:
            raise InputError(f"'{path}' cannot be read: {error.strerror}.") from None
    named = " and ".join(f"'{name}'" for name in (columns.text, columns.text_pair) if name)
    advice = f" The run's data has its texts in {named}, in CSV separated by {columns.separator!r}; name them so."
    table = read_table(path, replace(columns, advice=advice), optional=("label",))
    columns_read = [_cells(table, columns.text)] + ([_cells(table, columns.text_pair)] if columns.text_pair else [])
    texts = [cells for cells, _ in columns_read]
    places = [table.place(row) for row in range(len(table))]
    problems = [next((p for p in row if p), None) for row in zip(*(wrong for _, wrong in columns_read), strict=True)]
    labels = None
    if columns.label in table.cells:
        labels = [None if is_empty(cell) else label_name(cell_text(cell)) for cell in table.cells[columns.label]]
    return _named(texts[0], texts[1] if columns.text_pair else None, places, problems, labels)


def _asked(texts: Sequence[str], places: Sequence[str], columns: Columns) -> Asked:
    if columns.text_pair is None:
        return _named(texts, None, places, [_problem(text) for text in texts], None)
    parts = [text.split("\t") for text in texts]
    problems = [_problem_of_pair(part, columns) for part in parts]
    firsts = [part[0] for part in parts]
    seconds = ["\t".join(part[1:]) for part in parts]
    return _named(firsts, seconds, places, problems, None)


def _named(
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    places: Sequence[str],
    problems: Sequence[str | None],
    labels: Sequence[str | None] | None,
) -> Asked:
    """Problems with the place they are at; texts as they can be printed."""
    said = [None if wrong is None else f"{place} {wrong}" for place, wrong in zip(places, problems, strict=True)]
    return Asked(_printable(texts), None if pairs is None else _printable(pairs), places, said, labels)


def _printable(texts: Sequence[str]) -> list[str]:
    return [text.encode("utf-8", errors="replace").decode("utf-8") for text in texts]


def _problem(text: str) -> str | None:
    if not text.strip():
        return "is empty"
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        return "is not UTF-8 text (perhaps Latin-1, or half a character)"
    return None


def _problem_of_pair(parts: Sequence[str], columns: Columns) -> str | None:
    if len(parts) == 2:
        return next((f"has a text that {wrong}" for wrong in map(_problem, parts) if wrong), None)
    if len(parts) == 1 and not parts[0].strip():
        return "is empty"
    count = "one text" if len(parts) == 1 else f"{len(parts)} texts"
    return (
        f"has {count}, but this model reads two, '{columns.text}' and '{columns.text_pair}': put one tab between them "
        "($'first text\\tsecond text'), or give a CSV, JSONL or Parquet --file with these columns"
    )


def _cells(table: FileTable, column: str) -> tuple[list[str], list[str | None]]:
    """The texts of a column, and what is wrong with each."""
    cells = table.cells[column]
    wrong = [_wrong_cell(cell, column) for cell in cells]
    return ["" if is_empty(cell) else cell_text(cell) for cell in cells], wrong


def _wrong_cell(cell: object, column: str) -> str | None:
    if is_empty(cell):
        return f"has an empty '{column}'"
    if not isinstance(cell, str) and isinstance(cell, bytes | dict | list | tuple):
        return f"has a {type(cell).__name__} as '{column}'; one text or number is needed"
    problem = _problem(cell_text(cell))
    return None if problem is None else f"has a '{column}' that {problem}"
