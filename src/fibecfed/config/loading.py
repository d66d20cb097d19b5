"""Reading a configuration from YAML and ``KEY=VALUE`` overrides, and writing it back."""

import dataclasses
import difflib
import functools
import hashlib
import json
import re
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from fibecfed.config.not_offered import not_offered
from fibecfed.config.schema import Config
from fibecfed.config.sites import may_name_sites, settle
from fibecfed.errors import InputError

_ADAPTER = TypeAdapter(Config)


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice, which plain YAML would silently drop, and knows Python's None."""


class _Dumper(yaml.SafeDumper):
    """Writes what _Loader reads back: the text "None" in quotation marks."""


for _yaml in (_Loader, _Dumper):
    _yaml.add_implicit_resolver("tag:yaml.org,2002:null", re.compile("^None$"), ["N"])


def _mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    result: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise InputError(f"Key {key!r} (line {key_node.start_mark.line + 1}) is no name; keys are plain words.")
        if key in result:
            raise InputError(f"Key '{key}' is given twice (line {key_node.start_mark.line + 1}); remove one.")
        result[key] = loader.construct_object(value_node, deep=True)
    return result


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


@dataclass(frozen=True)
class Key:
    """One configuration key, for listings."""

    name: str
    default: Any
    meaning: str
    choices: str
    is_text: bool = False


def _sections(cls: type) -> dict[str, type]:
    return {f.name: typing.cast(type, f.type) for f in dataclasses.fields(cls) if dataclasses.is_dataclass(f.type)}


def keys(cls: type = Config, prefix: str = "") -> Iterator[Key]:
    """Every key with its default and meaning, in the order of the schema."""
    sections = _sections(cls)
    default = cls()
    for name, info in cls.__pydantic_fields__.items():  # type: ignore[attr-defined]
        if name in sections:
            yield from keys(sections[name], f"{prefix}{name}.")
        else:
            text = info.annotation in (str, str | None)
            yield Key(prefix + name, getattr(default, name), info.description or "", _choices(info.annotation), text)


def _choices(annotation: Any) -> str:
    """The words a key may be, also where it may be a number or None instead."""
    if typing.get_origin(annotation) is typing.Literal:
        return " | ".join(map(str, typing.get_args(annotation)))
    return " | ".join(filter(None, map(_choices, typing.get_args(annotation))))


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises InputError if the file is missing, is not YAML or is not a mapping.
    """
    if not path.is_file():
        raise InputError(f"Configuration file '{path}' does not exist.")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 - subclass of SafeLoader
    except InputError as error:
        raise InputError(f"'{path}': {error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
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
        parsed: Any = yaml.load(text, Loader=_Loader)  # noqa: S506 - subclass of SafeLoader
    except yaml.YAMLError:
        return text
    if parsed in (None, "") and text.strip() not in ("", "null", "~", "None", "''", '""'):
        return text
    if name in _text_keys() and not isinstance(parsed, str | None):
        return text  # data.label=1 is the column "1"
    return parsed


@functools.cache
def _text_keys() -> frozenset[str]:
    return frozenset(k.name for k in keys() if k.is_text)


def load_config(path: Path | str | None = None, overrides: Iterable[str] = (), **values: Any) -> Config:
    """The configuration of a YAML file (or the defaults) with overrides on top.

    ``values`` are nested mappings that lie between the file and the overrides.
    Raises InputError for an unknown key (naming the nearest known one) or a value out of bounds.
    """
    content = read_yaml(Path(path)) if path is not None else {}
    return build_config(merge(merge(content, values), parse_overrides(overrides)))


def build_config(content: Mapping[str, Any]) -> Config:
    """A checked Config from nested mappings; see ``load_config`` for errors."""
    check_keys(content, Config)
    try:
        return _ADAPTER.validate_python(dict(content))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        location = ".".join(str(part) for part in first["loc"] if isinstance(part, str))
        name = next((k.name for k in keys() if location == k.name or location.startswith(k.name + ".")), location)
        hint = not_offered(first["input"]) if isinstance(first["input"], str) else ""
        raise InputError(f"Key '{name}' cannot be {first['input']!r}: {first['msg']}.{hint}") from None


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
                raise InputError(f"Key '{name}' is a section with keys of its own, not the value {value!r}.")
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
    """The configuration as nested plain values."""
    return dataclasses.asdict(config)


def to_yaml(config: Config, header: str = "") -> str:
    """The configuration as YAML; ``load_config`` reads it back to an equal object."""
    head = "".join(f"# {line}\n" for line in header.splitlines())
    return head + yaml.dump(to_dict(config), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def config_hash(config: Config) -> str:
    """16 hex digits over every setting that can change a result; folders and thread placement excluded."""
    content = to_dict(config if may_name_sites(config) else settle(config))
    content["data"].pop("dir")
    content["runtime"].pop("device_states")
    if content["data"]["labels"] is None:  # so that runs from before this key keep their hash
        content["data"].pop("labels")
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
