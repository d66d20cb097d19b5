"""The methods by name. To add one, write a file with a class beside this one; docs/writing-a-method.md shows how."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from fibecfed.config import Config, build_config, merge, task_name, to_dict, unknown_method
from fibecfed.errors import InputError
from fibecfed.methods.base import FederatedAveraging
from fibecfed.methods.for_task import check_method
from fibecfed.methods.inside import inside
from fibecfed.methods.outside import load, outside_names, package_of, package_versions
from fibecfed.methods.own_settings import own_settings
from fibecfed.methods.rounds import settled_by_rounds
from fibecfed.methods.tuning_of import tuning_of
from fibecfed.tuning import TUNINGS, Tuning

METHODS: dict[str, type[FederatedAveraging]] = inside()  # this package's own


def method_names() -> list[str]:
    """Every name that `method` can have: this package's own in their order, then those of other packages."""
    return [*METHODS, *(name for name in outside_names() if name not in METHODS)]


def method_class(name: str) -> type[FederatedAveraging]:
    """The method of that name, of this package or another.

    Raises InputError naming the nearest known one, or for a package whose method cannot be used.
    """
    found = load(name, name in METHODS) or METHODS.get(name)
    if found is None:
        raise InputError(unknown_method(name, method_names()))
    return found


def usable_methods() -> tuple[dict[str, type[FederatedAveraging]], list[str]]:
    """Every method that can be used, and a sentence for each that cannot; imports all other packages' methods."""
    found: dict[str, type[FederatedAveraging]] = {}
    troubles: list[str] = []
    for name in method_names():
        try:
            found[name] = method_class(name)
        except InputError as error:
            troubles.append(str(error))
    return found, troubles


_OFF: dict[str, dict[str, Any]] = {
    "curriculum": {
        "score": "none",
        "fresh": False,
        "stratified": True,
        "pacing": "linear",
        "initialization": "pass",
        "start": 0.6,
        "cap": 1.0,
        "steps": "pace",
    },
    "sharing": {"layers": "all", "count": 0.5, "rows": "dense", "head": "shared"},
    "training": {"optimizer": "adamw", "momentum": 0.0, "loss": "cross_entropy"},
    "model": {"head_init": "random"},
    "personal": {"head": "none", "fallback": "none"},
}


def tuning(config: Config) -> Tuning:
    """The kind of tuning of a run. Raises InputError as ``resolve``."""
    return TUNINGS[tuning_of(config, method_class(config.method))]


def resolve(config: Config) -> Config:
    """The configuration with every key that is left to the method set to what the method says.

    Raises InputError for an unknown method, and for a setting that it has no use for.
    """
    method = method_class(config.method)
    content: dict[str, Any] = to_dict(config)
    _refuse_unused(config.method, content)
    own = own_settings(config, method)
    changes: dict[str, Any] = {"tuning": tuning_of(config, method), "task": {"kind": task_name(config)}}
    check_method(config, changes["tuning"])
    if own is not None:
        changes["settings"] = dataclasses.asdict(own)
    for section, keys in merge(_OFF, method.parts).items():
        left = {key: value for key, value in keys.items() if content[section][key] is None}
        changes[section] = left
    return build_config(merge(content, changes))


def in_use(config: Config) -> Config:
    """The resolved configuration, with the defaults in sections that belong to other methods and kinds of tuning.

    Two runs with the same one give the same result, whatever the defaults of other methods were at the time.
    """
    method = method_class(config.method)
    own = {*method.sections, *TUNINGS[config.tuning or method.tuning].sections}
    sections = set().union(*(m.sections for m in METHODS.values()), *(kind.sections for kind in TUNINGS.values()))
    return resolve(dataclasses.replace(config, **{name: getattr(Config(), name) for name in sections - own}))


def _refuse_unused(name: str, content: Mapping[str, Any]) -> None:
    """A setting that this method would silently pass over is a mistake."""
    defaults = to_dict(Config())
    for section in sorted(set().union(*(m.sections for m in METHODS.values())) - method_class(name).sections):
        changed = [key for key, value in content[section].items() if value != defaults[section][key]]
        if changed:
            users = ", ".join(m for m, cls in METHODS.items() if section in cls.sections)
            raise InputError(f"method={name} does not use {section}.{changed[0]}; it is a setting of {users}.")


__all__ = [
    "METHODS",
    "FederatedAveraging",
    "in_use",
    "method_class",
    "method_names",
    "package_of",
    "package_versions",
    "resolve",
    "settled_by_rounds",
    "tuning",
    "usable_methods",
]
