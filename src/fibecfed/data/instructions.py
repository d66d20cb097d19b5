"""Reading prompts with responses, or conversations: a user's files, and the sets that are known by name."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fibecfed.config import Config, DataConfig
from fibecfed.data.columns import FewColumns
from fibecfed.data.files import cell_text, devices_of, is_empty, names_of, text_cells
from fibecfed.data.formats import FileTable, read_table
from fibecfed.data.labels import visible
from fibecfed.data.locations import find_files
from fibecfed.data.rows import Rows
from fibecfed.errors import InputError

if TYPE_CHECKING:
    from fibecfed.tasks import Conversation
    from fibecfed.tasks.causal_lm import Turn

ALL = "all"  # the one group of data without groups
_OPTIONAL = ("context", "system")
_ASKED = ("prompt", "response", "context", "system", "messages", "group")


@dataclass(frozen=True)
class InstructionSet:
    """A set of prompts and responses by name: its columns by key, its split files and their rows."""

    name: str
    keys: Mapping[str, str]
    test: str | None  # split that is tested on; None: a stratified part of the training split
    sizes: Mapping[str, int]
    source: str
    licence: str
    note: str = ""


SETS = {
    found.name: found
    for found in (
        InstructionSet(
            "dolly15k",
            {"prompt": "instruction", "context": "context", "response": "response", "group": "category"},
            None,
            {"train": 15011},
            "Databricks (Conover et al. 2023)",
            "CC BY-SA 3.0",
            "The group is the category, one of eight.",
        ),
        InstructionSet(
            "gsm8k",
            {"prompt": "question", "response": "answer"},
            "test",
            {"train": 7473, "test": 1319},
            "Cobbe et al. 2021",
            "MIT",
        ),
    )
}


def read_instructions(config: Config) -> tuple[Rows, Rows | None, str]:
    """Training rows, test rows (None: to be split off) and where they come from; ``labels`` are the groups.

    Raises InputError for a file or column that is missing, an empty prompt or response, what is no conversation, and a
    group that training data does not have. It names file and row.
    """
    data = config.data
    if data.file is None:
        return _named(data)
    columns = FewColumns(_keys(data), data.separator)
    train = _read(data.file, columns)
    if data.device is not None and train.devices is None:
        raise InputError(f"'{data.file}' has no column '{data.device}' (data.device).")
    if data.test_file is None:
        return train, None, f"{data.file}; no test file"
    return train, _read(data.test_file, columns, train.label_names), f"{data.file}; tested on {data.test_file}"


def read_site(config: Config) -> tuple[Rows, Rows | None]:
    """Training and test rows (None: to be split off) of one device on a machine of its own; groups are its own.

    Raises InputError as ``read_instructions``.
    """
    data = config.data
    assert data.file is not None
    columns = _without_devices(data)
    train = _read(data.file, columns)
    if data.test_file is None:
        return train, None
    test = _read(data.test_file, columns)
    known = tuple(sorted({*train.label_names, *test.label_names}))
    return _regrouped(train, known), _regrouped(test, known)


def read_test_file(config: Config) -> Rows | None:
    """The rows of a server's own test file; None without one. Raises InputError as ``read_instructions``."""
    data = config.data
    return None if data.test_file is None else _read(data.test_file, _without_devices(data))


def column_sentence(config: Config) -> str:
    """Which column holds what."""
    found = ", ".join(f"{key} '{name}'" for key, name in instruction_columns(config).items())
    grouped = "" if config.data.group is None else f", group '{config.data.group}'"
    learned = "all tokens are" if config.data.train_on == "all" else "responses are"
    return f"{found}{grouped}; {learned} learned"


def unusable(config: Config, location: str) -> tuple[int, list[str]]:
    """How many rows the files of a location have, and for each that has nothing to learn, or no prompt, why.

    Raises InputError for a file or column that is missing.
    """
    columns = _without_devices(config.data)
    tables = [read_table(path, columns) for path in find_files(location).paths]
    return sum(map(len, tables)), [why for table in tables for why in _unusable(table, columns.keys)]


def _unusable(table: FileTable, keys: Mapping[str, str]) -> Iterator[str]:
    from fibecfed.tasks.causal_lm import of_messages

    for row in range(len(table)):
        if "messages" in keys:
            column = keys["messages"]
            try:
                _seen(of_messages(table.cells[column][row], column, table.place(row)), column)
            except InputError as error:
                yield str(error)
            continue
        empty = [name for key in ("prompt", "response") if _nothing(table.cells[name := keys[key]][row])]
        if empty:
            yield f"{table.place(row)} has no {' and no '.join(empty)}."


def _without_devices(data: DataConfig) -> FewColumns:
    return FewColumns({key: name for key, name in _keys(data).items() if key != "device"}, data.separator)


def _regrouped(rows: Rows, known: tuple[str, ...]) -> Rows:
    places = np.array([known.index(name) for name in rows.label_names], dtype=np.int64)
    return replace(rows, labels=places[rows.labels], label_names=known)


def instruction_columns(config: Config) -> dict[str, str]:
    """Column by configuration key, for the columns that hold text."""
    named = config.data.file is None and config.data.name in SETS  # a server of many machines has neither
    keys = SETS[config.data.name].keys if named else _keys(config.data)
    return {key: name for key, name in keys.items() if key not in ("group", "device")}


def _keys(data: DataConfig) -> dict[str, str]:
    if data.messages is not None:
        texts: dict[str, str | None] = {"messages": data.messages}
    else:
        texts = {"prompt": data.prompt or "prompt", "response": data.response or "response"}
        texts |= {"context": data.context, "system": data.system}
    found = {**texts, "group": data.group, "device": data.device}
    keys = {key: name for key, name in found.items() if name is not None}
    for key, name in keys.items():
        other = next((k for k, n in keys.items() if n == name and k != key), None)
        if other is not None and key not in ("group", "device"):
            raise InputError(f"data.{key} and data.{other} both name the column '{name}'; name a column for each.")
    return keys


def _named(data: DataConfig) -> tuple[Rows, Rows | None, str]:
    if data.name not in SETS:
        raise InputError(
            f"task.kind=causal-lm needs prompts and responses, which the data set '{data.name}' has not; set "
            f"data.file, or data.name to {' or '.join(SETS)}."
        )
    asked = next((key for key in _ASKED if getattr(data, key) is not None), None)
    if asked is not None:
        raise InputError(f"data.{asked} names a column of data.file; the data set '{data.name}' has its own.")
    spec, folder = SETS[data.name], Path(data.dir) / data.name
    if not (folder / "train.parquet").is_file():
        raise InputError(
            f"Data set '{data.name}' is not in '{data.dir}' (expected '{folder / 'train.parquet'}'); set data.dir (or "
            "FIBECFED_DATA_DIR) to the folder that holds it."
        )
    columns = FewColumns(spec.keys, advice=f" It is not the '{data.name}' set.")
    train = _read(str(folder / "train.parquet"), columns)
    origin = f"{data.name}: parquet files of the data folder"
    if spec.test is None:
        return train, None, f"{origin}; no official test split"
    test = _read(str(folder / f"{spec.test}.parquet"), columns, train.label_names)
    return train, test, f"{origin}; tested on its {spec.test} split"


def _read(location: str, columns: FewColumns, groups: Sequence[str] | None = None) -> Rows:
    """``groups``: of training data, for a test file, which may lack the device column."""
    optional = ("device",) if groups is not None else ()
    found = find_files(location)
    tables = [read_table(path, columns, optional) for path in found.paths]
    keys = columns.keys
    read = [one for table in tables for one in _conversations(table, keys)]
    names = [name for table in tables for name in _groups(table, keys)]
    known = tuple(sorted(set(names))) if groups is None else tuple(groups)
    number = {name: i for i, name in enumerate(known)}
    strange = next((i for i, name in enumerate(names) if name not in number), None)
    if strange is not None:
        raise InputError(
            f"{read[strange].place} has the group '{names[strange]}' (data.group), which training data does not "
            f"have; known groups: {', '.join(known[:20])}."
        )
    return Rows(
        texts=[one.prompt for one in read],
        pairs=[one.response for one in read],
        labels=np.array([number[name] for name in names], dtype=np.int64),
        label_names=known,
        devices=devices_of(tables, keys.get("device"), found.devices),
        examples=read,
    )


def _conversations(table: FileTable, keys: Mapping[str, str]) -> "list[Conversation]":
    from fibecfed.tasks.causal_lm import of_messages, of_prompt  # with torch, which other data does without

    if "messages" in keys:
        column = keys["messages"]
        found = (of_messages(cell, column, table.place(row)) for row, cell in enumerate(table.cells[column]))
        return [_seen(conversation, column) for conversation in found]
    prompts, responses = (_visible_cells(table, keys[key]) for key in ("prompt", "response"))
    contexts, systems = (_optional(table, keys.get(key)) for key in _OPTIONAL)
    parts = zip(prompts, responses, contexts, systems, strict=True)
    return [of_prompt(p, r, table.place(row), context=c, system=s) for row, (p, r, c, s) in enumerate(parts)]


def _nothing(cell: object) -> bool:
    return is_empty(cell) or (isinstance(cell, str) and _invisible(cell))


def _invisible(text: str) -> bool:
    """Whether a text is there, and nothing of it can be seen, such as a space without width."""
    return not text.isascii() and not visible(text)


def _visible_cells(table: FileTable, column: str) -> list[str]:
    texts = text_cells(table, column)
    unseen = next((row for row, text in enumerate(texts) if _invisible(text)), None)
    if unseen is not None:
        raise InputError(
            f"{table.place(unseen)} has only invisible characters as '{column}'; fill it in or remove the row."
        )
    return texts


def _seen(conversation: "Conversation", column: str) -> "Conversation":
    """The same. Raises InputError for a turn of which nothing can be seen."""
    for number, turn in enumerate(conversation.turns, 1):
        if _invisible(turn.content):
            raise InputError(
                f"{conversation.place} has nothing that can be seen as the content of turn {number} of '{column}'; "
                "fill it in."
            )
    return conversation


def _optional(table: FileTable, column: str | None) -> list[str]:
    """The cells of a column that may be empty."""
    if column is None or column not in table.cells:
        return [""] * len(table)
    filled = [row for row, cell in enumerate(table.cells[column]) if not is_empty(cell)]
    texts = [""] * len(table)
    for row in filled:
        texts[row] = cell_text(table.cells[column][row])
    return texts


def _groups(table: FileTable, keys: Mapping[str, str]) -> list[str]:
    return names_of(table, keys["group"]) if "group" in keys else [ALL] * len(table)


@dataclass(frozen=True)
class Prompt:
    """Turns that an answer is asked for, the text of them, and where they stand."""

    turns: "Sequence[Turn]"
    place: str

    @property
    def text(self) -> str:
        """All turns, one after another."""
        return "\n\n".join(turn.content for turn in self.turns)


def prompts_of_lines(lines: Sequence[str], what: str) -> list[Prompt]:
    """Each line is a prompt. Raises InputError for an empty one."""
    from fibecfed.tasks.causal_lm import of_prompt

    empty = next((number for number, line in enumerate(lines, 1) if not line.strip()), None)
    if empty is not None:
        raise InputError(f"{what} {empty} is empty; there is nothing to answer.")
    places = [f"{what} {number}" for number in range(1, len(lines) + 1)]
    return [Prompt(of_prompt(line, "", place).turns[:-1], place) for line, place in zip(lines, places, strict=True)]


def prompts_of_file(config: Config, path: Path) -> list[Prompt]:
    """The prompts of a file with the run's own columns, or with one prompt a line where it ends with .txt.

    Of conversations the last response is left out. Raises InputError as ``read_instructions``.
    """
    from fibecfed.tasks.causal_lm import of_messages, of_prompt

    path = path.expanduser()
    if not path.exists():
        raise InputError(f"File '{path}' does not exist.")
    if path.suffix.lower() == ".txt":
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        return prompts_of_lines([line for line in lines if line.strip()], f"'{path}' line")
    keys = {key: name for key, name in instruction_columns(config).items() if key != "response"}
    table = read_table(path, FewColumns(keys, config.data.separator), optional=_OPTIONAL)
    places = [table.place(row) for row in range(len(table))]
    if "messages" in keys:
        cells = table.cells[keys["messages"]]
        found = [of_messages(c, keys["messages"], place) for c, place in zip(cells, places, strict=True)]
    else:
        contexts, systems = (_optional(table, keys.get(key)) for key in _OPTIONAL)
        parts = zip(text_cells(table, keys["prompt"]), contexts, systems, places, strict=True)
        found = [of_prompt(prompt, "", place, context=c, system=s) for prompt, c, s, place in parts]
    return [Prompt(one.turns[:-1], one.place) for one in found]
