"""YAML as settings are read and written: one rule for files and for ``KEY=VALUE``.

Numbers are decimal (``20``, ``0.5``, ``2e1``). What YAML 1.1 makes of other spellings, ``010`` as eight and ``1:30`` as
ninety, stays text, which a key that holds a number refuses. A key that holds text takes what is written.
"""

import json
import math
import re
import shlex
from collections.abc import Callable
from typing import Any

import yaml

from fibecfed.commands import advice
from fibecfed.errors import InputError

NUMBER_RULE = (
    "a number in decimal digits, such as 20, 0.5 or 2e1; it begins with no zero (010 would be eight or ten), and yes, "
    "no, true and false are no numbers"
)
_INT, _NULL, _STR = (f"tag:yaml.org,2002:{name}" for name in ("int", "null", "str"))
_PLAIN = {f"tag:yaml.org,2002:{name}" for name in ("int", "float", "bool", "value")}
_TIMESTAMP, _MERGE, _SEXAGESIMAL = "tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:merge", ":"
_WHOLE = re.compile(r"[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F][0-9a-fA-F_]*|0b[01][01_]*)")
_DECIMAL = re.compile(r"[-+]?([0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9_]+")
_NO_DIGITS = re.compile(r"[-+]?\.?(inf|infinity|nan)")


class Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice, which plain YAML would silently drop, and knows Python's None."""


class Dumper(yaml.SafeDumper):
    """Writes what Loader reads back: the text "None" in quotation marks."""


def _resolvers() -> dict[Any, Any]:
    """YAML's, without numbers to the base of eight or sixty and dates."""
    whole = re.compile(f"^(?:{_WHOLE.pattern})$")
    return {
        first: [(tag, whole if tag == _INT else pattern) for tag, pattern in found if tag != _TIMESTAMP]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


Loader.yaml_implicit_resolvers = _resolvers()
for _yaml in (Loader, Dumper):
    _yaml.add_implicit_resolver(_NULL, re.compile("^None$"), ["N"])


def _mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    result: dict[Any, Any] = {}
    merged: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        value = loader.construct_object(value_node, deep=True)
        if key_node.tag == _MERGE:
            merged = {**_merged(value, line), **merged}
            continue
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise InputError(f"Key {key!r} (line {line}) is no name; keys are plain words.")
        if key in result:
            raise InputError(f"Key '{key}' is given twice (line {line}); remove one.")
        result[key] = value
    return {**merged, **result}


def _merged(value: Any, line: int) -> dict[Any, Any]:
    """What ``<<:`` brings: a mapping, or several, of which the first wins."""
    found = value if isinstance(value, list) else [value]
    if not all(isinstance(mapping, dict) for mapping in found):
        raise InputError(f"'<<' (line {line}) merges keys and values, not {value!r}.")
    return {key: content for mapping in reversed(found) for key, content in mapping.items()}


def _float(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> Any:
    text = str(node.value)
    return text if _SEXAGESIMAL in text else loader.construct_yaml_float(node)


Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
Loader.add_constructor("tag:yaml.org,2002:float", _float)

IsKey = Callable[[str], bool]


def read(text: str, is_text: IsKey, is_texts: IsKey, name: str = "") -> Any:
    """The value of a YAML text, which is that of the key ``name``; without a name, of a file.

    ``is_text`` and ``is_texts`` say of which keys one text, or a list of them, is the value.
    Raises InputError for a key given twice, yaml.YAMLError for what is no YAML.
    """
    loader = Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _keep_texts(node, name, is_text, is_texts, ())
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _keep_texts(node: yaml.Node, name: str, is_text: IsKey, is_texts: IsKey, above: tuple[yaml.Node, ...]) -> None:
    """Make plain values of keys that hold text the text that is written."""
    if node in above:  # an alias of what it lies in, which cannot be constructed
        return
    above = (*above, node)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                inner = name if key.tag == _MERGE else f"{name}.{key.value}".lstrip(".")
                _keep_texts(value, inner, is_text, is_texts, above)
    elif isinstance(node, yaml.SequenceNode):
        if is_texts(name):
            _check_texts(node, name)
        else:
            for item in node.value:
                _keep_texts(item, name, is_text, is_texts, above)
    elif isinstance(node, yaml.ScalarNode) and node.style is None and node.tag in _PLAIN and is_text(name):
        node.tag = _STR


def _check_texts(node: yaml.SequenceNode, name: str) -> None:
    items = [item for item in node.value if isinstance(item, yaml.ScalarNode)]
    odd = next((item for item in items if item.tag != _STR), None)
    if odd is not None:
        quoted = json.dumps([item.value for item in items], ensure_ascii=False)
        shell = advice(f"; in a shell: {shlex.quote(f'{name}={quoted}')}", "")
        raise InputError(
            f"Key '{name}' holds {odd.value or 'nothing'}, which YAML reads as something else than text; put it into "
            f"quotation marks: {quoted}{shell}"
        )


def number(text: str) -> int | float | None:
    """The number that a text spells, by the rule above; None if it spells none.

    Without a point it is a whole number wherever it can be: ``2e1`` is 20.
    """
    text = text.strip().lower()
    if _WHOLE.fullmatch(text):
        return int(text.replace("_", ""), 0)
    if _NO_DIGITS.fullmatch(text):
        return float(text.replace(".", ""))
    if not _DECIMAL.fullmatch(text) or _LEADING_ZERO.fullmatch(text):
        return None
    value = float(text.replace("_", ""))
    if math.isinf(value):
        return None
    return int(value) if "." not in text and value.is_integer() else value
