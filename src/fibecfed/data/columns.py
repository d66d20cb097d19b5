"""Which columns of a user's file hold what, and what to set when they are not found."""

import difflib
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from fibecfed.commands import advice
from fibecfed.errors import InputError

_SEPARATORS = (",", ";", "\t", "|")
_MOST_NAMES = 20
_LONGEST_NAME = 60
_ONE_LINE = 2**30


@dataclass(frozen=True)
class Columns:
    """Which columns hold what, and how a CSV file separates them."""

    text: str
    text_pair: str | None
    label: str
    device: str | None = None
    separator: str = ","
    advice: str | None = None  # said of a missing column; None: which settings would fit the file

    def __post_init__(self) -> None:
        """Raise InputError where the label is a text, too, which nothing is easier to learn than, or a text is both."""
        for key in ("text", "text_pair"):
            if getattr(self, key) == self.label:
                raise InputError(
                    f"data.{key} and data.label both name the column '{self.label}': the model would read the answer. "
                    "Name the column with the text, and the one with the label."
                )
        if self.text_pair == self.text:
            raise InputError(
                f"data.text and data.text_pair both name the column '{self.text}': a pair is two texts. Name the "
                "column with the second, or leave data.text_pair out."
            )

    @property
    def keys(self) -> dict[str, str]:
        """Column by configuration key, for the columns that are asked for."""
        names = {"text": self.text, "text_pair": self.text_pair, "label": self.label, "device": self.device}
        return {key: name for key, name in names.items() if name}


@dataclass(frozen=True)
class FewColumns:
    """Columns by configuration key, for what is no labelled text; the rest as in ``Columns``."""

    keys: Mapping[str, str]
    separator: str = ","
    advice: str | None = None


AnyColumns = Columns | FewColumns


def check_header(path: Path, present: Sequence[str], columns: AnyColumns, optional: Collection[str] = ()) -> None:
    """Raise InputError if a column is missing or there twice; it says which settings would fit the file.

    ``optional`` holds configuration keys whose columns may be missing.
    """
    twice = next((name for name in columns.keys.values() if list(present).count(name) > 1), None)
    if twice is not None:
        raise InputError(f"'{path}' has more than one column '{twice}'; rename all but one.")
    missing = {k: name for k, name in columns.keys.items() if name not in present and k not in optional}
    if not missing:
        return
    what = "no column" if len(missing) == 1 else "no columns"
    named = ", ".join(f"'{name}' (data.{key})" for key, name in missing.items())
    raise InputError(
        f"'{path}' has {what} {named}; its columns are: {_listed(present)}."
        + (
            columns.advice
            or _other_task(present, columns)
            or _other_separator(path, present, columns)
            or _renamed(path, present, missing)
        )
    )


def _other_task(present: Sequence[str], columns: AnyColumns) -> str:
    """The settings for a file of prompts and responses, or conversations, that was read as another; else empty."""
    if "messages" in present and "messages" not in columns.keys:
        return f" Its column 'messages' seems to hold conversations: set {_as_settings({'messages': 'messages'})}"
    if {"prompt", "response"} <= set(present) and isinstance(columns, Columns):
        return f" It seems to hold prompts and responses: set {_as_settings({'prompt': 'prompt'})}"
    return ""


def setting(key: str, value: str) -> str:
    """``key=value`` as an argument that a shell and the YAML reader of overrides both leave as it is."""
    try:
        plain = yaml.safe_load(value) == value
    except yaml.YAMLError:
        plain = False
    if not plain:
        value = yaml.safe_dump(value, default_style='"', allow_unicode=True, width=_ONE_LINE).strip()
    return shlex.quote(f"{key}={value}")


def _as_settings(values: dict[str, str]) -> str:
    """Keys of the section data as the reader sets them: arguments of a command, or of ``load_config``."""
    return advice(" ".join(setting(f"data.{key}", value) for key, value in values.items()), f"data={values}")


def _listed(names: Sequence[str]) -> str:
    shown = [name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}..." for name in names[:_MOST_NAMES]]
    return ", ".join(shown) + (f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else "")


def _other_separator(path: Path, present: Sequence[str], columns: AnyColumns) -> str:
    """The settings for a file whose whole header was read as one column; empty if it is not one."""
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".tsv") or len(present) != 1:
        return ""
    used = "\t" if suffix == ".tsv" else columns.separator
    other = next((s for s in _SEPARATORS if s != used and s in present[0]), None)
    if other is None:
        return ""
    found = _matches(columns.keys, [name.strip().strip('"') for name in present[0].split(other)])
    settings = {"separator": other} | {key: name for key, name in found.items() if name != columns.keys[key]}
    rename = " give it the ending .csv and" if suffix == ".tsv" else ""
    return f" The file seems to be separated by {other!r}:{rename} set {_as_settings(settings)}"


def _renamed(path: Path, present: Sequence[str], missing: dict[str, str]) -> str:
    found = _matches(missing, present)
    if found:
        return f" Set {_as_settings(found)}"
    which = advice(" ".join(f"data.{key}=COLUMN" for key in missing), f"data={dict.fromkeys(missing, 'COLUMN')}")
    first_line = " (its first line must name them)" if path.suffix.lower() in (".csv", ".tsv") else ""
    return f" Say which of them{first_line} to use: {which}"


def _matches(wanted: Mapping[str, str], present: Sequence[str]) -> dict[str, str]:
    """The column that each key probably means; none is given twice."""
    found: dict[str, str] = {}
    for key, name in wanted.items():
        folded = {p.strip().lower(): p for p in present if p not in found.values()}
        near = difflib.get_close_matches(name.strip().lower(), folded, n=1, cutoff=0.6)
        if near:
            found[key] = folded[near[0]]
    return found
