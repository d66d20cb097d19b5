"""The methods as their sources declare them: names and what `methods` lists, without torch, whose import takes seconds.

`fibecfed.methods` is the registry that runs use; a test holds that both say the same.
"""

import ast
import importlib.metadata
import importlib.util
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fibecfed.config import unknown_method
from fibecfed.errors import InputError

_GROUP = "fibecfed.methods"  # of entry points, by which other packages bring methods
_BASE = "FederatedAveraging"  # what every method inherits from
_LISTED = ("name", "place", "paper", "trains", "sends")


@dataclass(frozen=True)
class Declared:
    """What a method says of itself in listings."""

    paper: str
    trains: str
    sends: str


def declared_methods() -> dict[str, Declared]:
    """This package's own methods by name, in the order of listings."""
    classes = dict(_classes())
    found = []
    for name in classes:
        own, inherited = classes[name][1], _inherited(name, classes)
        if "name" in own and "paper" in inherited:
            found.append((own.get("place", math.inf), inherited))
    found.sort(key=lambda entry: (entry[0], entry[1]["name"]))
    return {said["name"]: Declared(said["paper"], said["trains"], said["sends"]) for _, said in found}


def others_bring_methods() -> bool:
    """Whether another package that is installed brings methods, which can only be listed by importing them."""
    return bool(importlib.metadata.entry_points(group=_GROUP))


def check_method_name(name: str) -> None:
    """Raise InputError for a method that there is not, naming the nearest."""
    known = list(declared_methods())
    if name not in known:
        others = sorted(importlib.metadata.entry_points(group=_GROUP).names)
        if name not in others:
            raise InputError(unknown_method(name, [*known, *(other for other in others if other not in known)]))


def _classes() -> Iterator[tuple[str, tuple[list[str], dict[str, Any]]]]:
    """Of each class beside the registry: the names of its bases, and the listed attributes that it sets itself."""
    package = importlib.util.find_spec(_GROUP)  # found, not imported
    assert package is not None
    for folder in package.submodule_search_locations or ():
        for path in sorted(Path(folder).glob("*.py")):
            for node in ast.parse(path.read_bytes()).body:
                if isinstance(node, ast.ClassDef):
                    bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
                    yield node.name, (bases, dict(_attributes(node)))


def _attributes(node: ast.ClassDef) -> Iterator[tuple[str, Any]]:
    for line in node.body:
        match line:
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value) if name in _LISTED:
                yield name, ast.literal_eval(value)


def _inherited(name: str, classes: Mapping[str, tuple[list[str], dict[str, Any]]]) -> dict[str, Any]:
    """The listed attributes of a class and of those it inherits from; {} where `FederatedAveraging` is none of them."""
    bases, own = classes[name]
    if name == _BASE:
        return own
    above = next((found for base in bases if base in classes and (found := _inherited(base, classes))), {})
    return {**above, **own} if above else {}
