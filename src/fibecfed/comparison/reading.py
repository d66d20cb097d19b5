"""A comparison's YAML file, read and checked whole before anything runs."""

import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from fibecfed.comparison.spec import (
    FINAL_OF,
    MethodEntry,
    Partition,
    PlannedRun,
    Settings,
    Spec,
    Variant,
    final_runs,
    first_rates,
    tuning_runs,
)
from fibecfed.config import Config, config_hash, keys, merge, nearest_hint, not_offered, read_yaml, task_name
from fibecfed.config.loading import parse_overrides
from fibecfed.errors import InputError
from fibecfed.methods import method_class, resolve
from fibecfed.tasks import Task, task_kind

_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]*")
_AXES = {"methods": "method", "data_sets": "data set", "partitions": "partition"}
_OWNED = {  # keys that the comparison itself sets, and where to say them instead
    ("method",): "methods",
    ("seed",): "seeds",
    ("evaluation", "split"): "split, for what is reported; tuning uses validation in any case",
}
_USUAL: Settings = {"runtime": {"device": "auto"}}  # a comparison uses an accelerator where there is one
_ENTRIES: dict[str, type] = {"methods": MethodEntry, "data_sets": Variant, "partitions": Partition}


def load_spec(path: Path, overrides: Iterable[str] = ()) -> Spec:
    """The comparison in a YAML file; ``overrides`` (KEY=VALUE) change its own keys (``seeds=[0,1]``) or its ``base``.

    Raises InputError, before anything runs, for an unknown key or method, an empty axis or grid, grids of different
    size, a run that would be there twice, settings that contradict each other.
    """
    content = read_yaml(path)
    try:
        own, settings = _divided(parse_overrides(overrides))
        spec = parse_spec(merge(content, own), settings)
        _check(spec)
    except InputError as error:
        raise InputError(f"'{path}': {error}") from None
    return spec


def _divided(overrides: Mapping[str, Any]) -> tuple[Settings, Settings]:
    """Overrides of the comparison's own keys, and those of its base."""
    own = [f.name for f in fields(Spec)]
    sections = [f.name for f in fields(Config)]
    for key in overrides:
        if key not in (*own, *sections):
            hint = not_offered(key) or nearest_hint(key, [*own, *(known.name for known in keys())])
            raise InputError(f"Unknown key '{key}'.{hint}")
    return (
        {key: value for key, value in overrides.items() if key in own},
        {key: value for key, value in overrides.items() if key not in own},
    )


def parse_spec(content: Mapping[str, Any], overrides: Mapping[str, Any]) -> Spec:
    """The Spec of nested values; names alone stand for entries without settings."""
    _known(content, Spec, "")
    missing = [key for key in ("methods", "data_sets", "seeds") if key not in content]
    if missing:
        raise InputError(f"Key '{missing[0]}' is missing; a comparison needs methods, data_sets and seeds.")
    expanded = dict(content)
    for axis in _AXES:
        if axis in content:
            expanded[axis] = _entries(axis, content[axis])
    base = expanded.get("base") or {}
    if not isinstance(base, Mapping):
        raise InputError(f"Key 'base' holds settings of its own, not the value {base!r}.")
    expanded["base"] = merge(merge(_USUAL, base), overrides)
    try:
        return TypeAdapter(Spec).validate_python(expanded)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        example = f"; a list, on the command line {where}=[0,1,2]" * (where == "seeds")
        raise InputError(f"Key '{where}' cannot be {first['input']!r}: {first['msg']}{example}.") from None


def _entries(axis: str, value: Any) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise InputError(
            f"Key '{axis}' must be a list with at least one {_AXES[axis]}, not {value!r}: on the command line "
            f"{axis}=[ONE,ANOTHER]."
        )
    result = []
    for entry in value:
        if isinstance(entry, Mapping):
            _known(entry, _ENTRIES[axis], f"{axis}.")
            if "name" not in entry:
                raise InputError(f"An entry of '{axis}' has no name: {dict(entry)!r}.")
            result.append(dict(entry))
        else:
            result.append({"name": str(entry)})
    return result


def _known(content: Mapping[str, Any], cls: type, prefix: str) -> None:
    known = [f.name for f in fields(cls)]
    for key in content:
        if key not in known:
            hint = not_offered(key) or nearest_hint(key, known)
            raise InputError(f"Unknown key '{prefix}{key}'.{hint} Known here: {', '.join(known)}.")


def _check(spec: Spec) -> None:
    for axis, word in _AXES.items():
        _check_names(word, [entry.name for entry in getattr(spec, axis)])
    if not spec.seeds:
        raise InputError("Key 'seeds' is empty; give at least one seed.")
    _once("seed", spec.seeds)
    variants: list[Spec | Variant | MethodEntry] = [spec, *spec.data_sets, *spec.partitions, *spec.methods]
    for variant in variants:
        _check_owned(spec, variant)
    for entry in spec.methods:
        method_class(entry.method_name)
    _check_grids(spec)
    one_seed = final_runs(replace(spec, seeds=spec.seeds[:1]), first_rates(spec))  # what is wrong with it is with all
    _check_target(spec, one_seed)
    _check_reference(spec)
    for runs in (tuning_runs(spec), one_seed):
        _check_runs(runs)


def _check_reference(spec: Spec) -> None:
    names, sets = [entry.name for entry in spec.methods], [d.name for d in spec.data_sets]
    if spec.reference is not None and spec.reference not in names:
        raise InputError(
            f"Key 'reference' cannot be {spec.reference!r}: it names no method of this comparison."
            f"{nearest_hint(spec.reference, names)}"
        )
    for partition in spec.partitions:
        for name in partition.data_sets or ():
            if name not in sets:
                raise InputError(
                    f"Partition '{partition.name}' goes with '{name}', which is no data set of this comparison."
                    f"{nearest_hint(name, sets)}"
                )
    if not spec.settings():
        raise InputError("No data set goes with any partition; see data_sets of the partitions.")


def _check_names(word: str, names: list[str]) -> None:
    for name in names:
        if not _SAFE_NAME.fullmatch(name):
            raise InputError(
                f"The {word} name '{name}' is part of file names: use letters, digits and . + _ - only "
                "(for another name give: name, and settings)."
            )
        if "--" in name:
            raise InputError(f"The {word} name '{name}' has two hyphens in a row, which separate names of runs.")
    _once(word, names)


def _once(word: str, names: Collection[Any]) -> None:
    seen: set[Any] = set()
    for name in names:
        if name in seen:
            raise InputError(f"Duplicate run: {word} {name!r} is listed twice; remove one, or name them apart.")
        seen.add(name)


def _check_owned(spec: Spec, variant: Spec | Variant | MethodEntry) -> None:
    """A setting that the comparison would overwrite is refused: it would do nothing."""
    settings = variant.base if isinstance(variant, Spec) else variant.settings
    where = "base" if isinstance(variant, Spec) else f"settings of {variant.name}"
    owned = dict(_OWNED)
    if isinstance(variant, Spec):
        owned |= {("data", "name"): "data_sets"}
    tuned = variant.tune if isinstance(variant, MethodEntry) else all(e.tune for e in spec.methods)
    if tuned and any(spec.grid(e) for e in spec.methods):
        owned |= {("training", "learning_rate"): "learning_rates (a method with tune: false takes it from settings)"}
    for path, instead in owned.items():
        value: Any = settings
        for part in path:
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None:
            raise InputError(f"Key '{'.'.join(path)}' in {where} is set by the comparison itself; use {instead}.")


def _check_grids(spec: Spec) -> None:
    if spec.learning_rates is not None and not spec.learning_rates:
        raise InputError("Key 'learning_rates' is an empty grid; list rates, or leave the key out to tune nothing.")
    for entry in spec.methods:
        if entry.learning_rates is None:
            continue
        if not spec.learning_rates or len(entry.learning_rates) != len(spec.learning_rates):
            raise InputError(
                f"Method '{entry.name}' has a grid of {len(entry.learning_rates)} learning rates and the others have "
                f"{len(spec.learning_rates or [])}; every method gets a grid of the same size."
            )
        if not entry.tune:
            raise InputError(f"Method '{entry.name}' has learning_rates and tune: false; remove one of them.")
    for rates in [spec.grid(entry) for entry in spec.methods]:
        _once("learning rate", [f"{rate:g}" for rate in rates])


def _task(runs: list[PlannedRun]) -> type[Task]:
    """The task of all runs. Raises InputError where they have several: their scores cannot stand in one table."""
    kinds = {task_name(run.config): run.name for run in runs}
    if len(kinds) > 1:
        named = ", ".join(f"task.kind={kind} ('{name}')" for kind, name in kinds.items())
        raise InputError(f"The runs have different tasks: {named}; compare each task in a file of its own.")
    return task_kind(runs[0].config)


def _check_target(spec: Spec, runs: list[PlannedRun]) -> None:
    task = _task(runs)
    begins = FINAL_OF.format(metric=task.metric)
    number, most = ("a loss above 0", math.inf) if task.lower_is_better else ("an accuracy from 0 to 1", 1)
    names = [d.name for d in spec.data_sets]
    if isinstance(spec.target, dict):
        for key in spec.target:
            if key not in names:
                raise InputError(f"Key 'target.{key}' names no data set of this comparison.{nearest_hint(key, names)}")
    stated = list(spec.target.values()) if isinstance(spec.target, dict) else [spec.target]
    entries = [entry.name for entry in spec.methods]
    for target in stated:
        if isinstance(target, str):
            method = target.removeprefix(begins)
            if method == target or method not in entries:
                raise InputError(
                    f"Key 'target' cannot be {target!r}: give {number}, or '{begins}METHOD' with a "
                    f"method of this comparison.{nearest_hint(method, entries)}"
                )
        elif target is not None and not 0 < target <= most:
            raise InputError(f"Key 'target' cannot be {target!r}: give {number}.")


def _check_runs(runs: list[PlannedRun]) -> None:
    seen: dict[str, str] = {}
    for run in runs:
        digest = config_hash(resolve(run.config)) + run.config.data.dir + str(run.config.model.dir)
        if digest in seen:
            raise InputError(f"Duplicate run: '{run.name}' has the same settings as '{seen[digest]}'; remove one.")
        seen[digest] = run.name
