"""Reading a configuration from YAML and ``KEY=VALUE`` overrides, and writing it back."""

import dataclasses
import difflib
import functools
import hashlib
import json
import operator
import os
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass

from fibecfed.config.earlier import as_meant
from fibecfed.config.not_offered import not_offered
from fibecfed.config.reading import NUMBER_RULE, Dumper, number, read
from fibecfed.config.renamed import in_todays_keys
from fibecfed.config.schema import Config
from fibecfed.config.sites import may_name_sites, settle
from fibecfed.errors import InputError

_ADAPTER = TypeAdapter(Config)
# Keys that came after the first hashes: their default stands in none, so that runs from before keep theirs.
_ADDED = (
    "data.labels", "data.partition.examples_per_device", "evaluation.start", "model.quantization", "task",
    "training.cohort",
)  # fmt: skip


@dataclass(frozen=True)
class Key:
    """One configuration key, for listings."""

    name: str
    default: Any
    meaning: str
    choices: str
    is_text: bool = False
    is_texts: bool = False  # a list of texts
    is_number: bool = False  # or None, or one of the choices


@functools.lru_cache(maxsize=64)
def _sections(cls: type) -> Mapping[str, type]:
    fields = cls.__pydantic_fields__  # type: ignore[attr-defined]
    found = {name: info.annotation for name, info in fields.items()}
    return {name: typing.cast(type, kind) for name, kind in found.items() if dataclasses.is_dataclass(kind)}


@functools.lru_cache(maxsize=64)  # a comparison checks thousands of configurations
def keys(cls: type = Config, prefix: str = "") -> Sequence[Key]:
    """Every key with its default and meaning, in the order of the schema."""
    return tuple(_keys(cls, prefix))


def _keys(cls: type, prefix: str) -> Iterator[Key]:
    sections = _sections(cls)
    default = cls()
    for name, info in cls.__pydantic_fields__.items():  # type: ignore[attr-defined]
        if name in sections:
            yield from keys(sections[name], f"{prefix}{name}.")
        else:
            kinds = _kinds(info.annotation)
            yield Key(
                prefix + name,
                getattr(default, name),
                info.description or "",
                _choices(info.annotation),
                is_text=kinds <= {str, type(None)},
                is_texts=list in kinds,
                is_number=bool(kinds & {int, float}) and not kinds & {str, bool},
            )


def section_meanings(cls: type = Config, prefix: str = "") -> dict[str, str]:
    """What each section, by dotted name, is about."""
    found: dict[str, str] = {}
    for name, section in _sections(cls).items():
        found[prefix + name] = (section.__doc__ or "").splitlines()[0]
        found |= section_meanings(section, f"{prefix}{name}.")
    return found


def _choices(annotation: Any) -> str:
    """The words a key may be, also where it may be a number or None instead."""
    if typing.get_origin(annotation) is typing.Literal:
        return " | ".join(map(str, typing.get_args(annotation)))
    return " | ".join(filter(None, map(_choices, typing.get_args(annotation))))


def _kinds(annotation: Any) -> set[Any]:
    """The plain types that a key may have; a list without what it holds."""
    origin = typing.get_origin(annotation)
    if origin is typing.Literal:
        return {typing.Literal}
    if origin is list:
        return {list}
    found = typing.get_args(annotation)
    return set().union(*map(_kinds, found)) if found else {annotation}


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises InputError if the file is missing, is not YAML or is not a mapping.
    """
    if path.is_dir():
        raise InputError(f"'{path}' is a folder; name a YAML file.")
    if not path.is_file():
        raise InputError(f"Configuration file '{path}' does not exist.")
    try:
        content = read(path.read_text(encoding="utf-8-sig"), _is_text, _is_texts)
    except InputError as error:
        raise InputError(f"'{path}': {error}") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise InputError(
            f"'{path}' is not valid YAML: the byte {error.object[error.start]:#04x} in line {line} is no UTF-8; save "
            "the file as UTF-8."
        ) from None
    except yaml.YAMLError as error:
        raise InputError(f"'{path}' is not valid YAML: {' '.join(str(error).split())}.") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InputError(f"'{path}' must hold keys and values at the top level, not a {type(content).__name__}.")
    return content


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings merged; the second wins."""
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        result[key] = merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return result


def parse_overrides(overrides: Iterable[str]) -> dict[str, Any]:
    """``["federation.rounds=3"]`` as ``{"federation": {"rounds": 3}}``; values are read as YAML.

    A value that YAML has no use for (``|``, ``#1``), and any value of a key that holds text, stays text;
    only nothing, ``null``, ``~`` and ``None`` are None. Raises InputError where there is no ``=``.
    """
    result: dict[str, Any] = {}
    for text in overrides:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise InputError(f"Override '{text}' must have the form KEY=VALUE, such as federation.rounds=10.")
        parsed: Any = _override_value(name.strip(), value)
        for part in reversed(name.strip().split(".")):
            parsed = {part: parsed}
        result = merge(result, parsed)
    return result


def _override_value(name: str, text: str) -> Any:
    try:
        parsed: Any = read(text, _is_text, _is_texts, name)
    except yaml.YAMLError:
        return text
    if parsed in (None, "") and text.strip() not in ("", "null", "~", "None", "''", '""'):
        return text
    if _is_text(name) and not isinstance(parsed, str | None):
        return text  # data.text=[a] is the column "[a]"
    return parsed


@functools.cache
def _is_text(name: str) -> bool:
    """Whether a key of this name holds a text; in the file of a comparison, settings lie further down."""
    return any(k.is_text and _ends_in(name, k.name) for k in keys())


@functools.cache
def _is_texts(name: str) -> bool:
    return any(k.is_texts and _ends_in(name, k.name) for k in keys())


def _ends_in(name: str, key: str) -> bool:
    return name == key or ("." in key and name.endswith(f".{key}"))


def split_arguments(arguments: Iterable[str]) -> tuple[list[str], list[str]]:
    """The files and the ``KEY=VALUE`` settings among the arguments of a command, such as runs/lr=0.1/config.yaml."""
    files: list[str] = []
    settings: list[str] = []
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        known = name.startswith("settings.") or any(f"{k.name}.".startswith(f"{name.strip()}.") for k in keys())
        is_file = not equals or "/" in name or os.sep in name or (not known and Path(argument).is_file())
        (files if is_file else settings).append(argument)
    return files, settings


def load_config(path: Path | str | None = None, overrides: Iterable[str] = (), **values: Any) -> Config:
    """The configuration of a YAML file (or the defaults) with overrides on top.

    ``values`` are nested mappings that lie between the file and the overrides. A file that an earlier version wrote
    means what it meant then (``as_meant``).
    Raises InputError for an unknown key (naming the nearest known one) or a value out of bounds.
    """
    content = as_meant(read_yaml(Path(path))) if path is not None else {}
    return build_config(merge(merge(content, values), parse_overrides(overrides)))


def build_config(content: Mapping[str, Any]) -> Config:
    """A checked Config from nested mappings; see ``load_config`` for errors."""
    return typing.cast(Config, _checked(in_todays_keys(content), Config, _ADAPTER))


def build_settings(content: Mapping[str, Any], cls: type) -> Any:
    """A checked instance of ``cls``, a pydantic dataclass that a method brings, from what `settings` says.

    See ``load_config`` for errors.
    """
    whole = settings_section(cls)
    return _checked({"settings": content}, whole, TypeAdapter(whole)).settings


def settings_section(cls: type) -> type:
    """A configuration that has nothing but ``cls`` as its section `settings`, so that keys are named as users know."""
    field = ("settings", cls, dataclasses.field(default_factory=cls))
    return pydantic_dataclass(dataclasses.make_dataclass("Whole", [field]))


def _checked(content: Mapping[str, Any], cls: type, adapter: TypeAdapter[Any]) -> Any:
    check_keys(content, cls)
    try:
        return adapter.validate_python(with_numbers(content, cls))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        location = ".".join(str(part) for part in first["loc"] if isinstance(part, str))
        name = next((k.name for k in keys(cls) if location == k.name or location.startswith(k.name + ".")), location)
        hint = not_offered(first["input"]) if isinstance(first["input"], str) else ""
        raise InputError(f"Key '{name}' cannot be {first['input']!r}: {first['msg']}.{hint}") from None


def with_numbers(content: Mapping[str, Any], cls: type) -> dict[str, Any]:
    """``content`` with numbers in place of the texts that spell them. Raises InputError for a key that wants one."""
    result = dict(content)
    for key in keys(cls):
        *sections, last = key.name.split(".")
        below: Any = result
        for section in sections:
            if not isinstance(below.get(section), Mapping):
                break
            below[section] = below = dict(below[section])
        else:
            if key.is_number and last in below:
                below[last] = _number(key, below[last])
    return result


def _number(key: Key, value: Any) -> Any:
    if isinstance(value, str) and value not in key.choices.split(" | "):
        value = value if (spelled := number(value)) is None else spelled
    if isinstance(value, bool) or (isinstance(value, str) and value not in key.choices.split(" | ")):
        choices = f"{key.choices}, or " if key.choices else ""
        raise InputError(f"Key '{key.name}' cannot be {value!r}: Input should be {choices}{NUMBER_RULE}.")
    return value


def check_keys(content: Mapping[str, Any], cls: type, prefix: str = "", root: type | None = None) -> None:
    """Raise InputError for a key that the dataclass ``cls`` does not have, naming the nearest that ``root`` has."""
    root = root or cls
    known = [f.name for f in dataclasses.fields(cls)]
    sections = _sections(cls)
    for key, value in content.items():
        name = f"{prefix}{key}"
        if key not in known:
            hint = not_offered(key) or nearest_hint(name, [k.name for k in keys(root)])
            raise InputError(f"Unknown key '{name}'.{hint}")
        if key in sections:
            if not isinstance(value, Mapping):
                hint = not_offered(value) if isinstance(value, str) else ""
                raise InputError(f"Key '{name}' is a section with keys of its own, not the value {value!r}.{hint}")
            check_keys(value, sections[key], f"{name}.", root)


def nearest_hint(name: str, known: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` for the nearest known name, or an empty string."""
    known = list(known)
    last = name.rsplit(".", 1)[-1]
    same = [k for k in known if k.rsplit(".", 1)[-1] == last]  # a right key in the wrong section
    if same:
        section = name.split(".", 1)[0] + "."
        same.sort(key=lambda k: not k.startswith(section))
        return f" Did you mean {' or '.join(repr(k) for k in same[:3])}?"
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if not close:
        tails = {k.rsplit(".", 1)[-1]: k for k in known}
        close = [tails[t] for t in difflib.get_close_matches(last, tails, n=1, cutoff=0.5)]
    return f" Did you mean '{close[0]}'?" if close else ""


def to_dict(config: Config) -> dict[str, Any]:
    """The configuration as nested plain values; without ``settings`` where none are said."""
    content: dict[str, Any] = _ADAPTER.dump_python(config)  # eight times as fast as dataclasses.asdict
    if not config.settings:  # so that files and hashes are those from before this key
        del content["settings"]
    return content


def to_yaml(config: Config, header: str = "") -> str:
    """The configuration as YAML; ``load_config`` reads it back to an equal object."""
    head = "".join(f"# {line}\n" for line in header.splitlines())
    return head + yaml.dump(to_dict(config), Dumper=Dumper, sort_keys=False, allow_unicode=True)


def config_hash(config: Config) -> str:
    """16 hex digits over every setting that can change a result; folders and thread placement excluded."""
    content = to_dict(config if may_name_sites(config) else settle(config))
    content["data"].pop("dir")
    content["model"].pop("dir")
    content["runtime"].pop("device_states")
    content["runtime"].pop("workers")
    content["training"]["cache_mb"] = 0  # results are the same; so that runs from before auto keep their hash
    if config.federation.compression == "none":  # so that runs from before these keys keep their hash
        content["federation"].pop("compression")
        content["federation"].pop("top_share")
    defaults = to_dict(Config())
    for name in _ADDED:
        *sections, key = name.split(".")
        part, default = (functools.reduce(operator.getitem, sections, whole) for whole in (content, defaults))
        if part[key] == default[key]:
            del part[key]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
