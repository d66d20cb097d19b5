"""What a comparison compares: methods × data sets × partitions × seeds, read from one YAML file and checked whole."""

import itertools
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass as plain
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from fibecfed.config import Config, build_config, config_hash, keys, merge, nearest_hint, not_offered, read_yaml
from fibecfed.config.loading import parse_overrides
from fibecfed.errors import InputError
from fibecfed.methods import method_class, resolve

_STRICT_KEYS = ConfigDict(extra="forbid")
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]*")
_FINAL_OF = "final accuracy of "
_AXES = {"methods": "method", "data_sets": "data set", "partitions": "partition"}
_OWNED = {  # keys that the comparison itself sets, and where to say them instead
    ("method",): "methods",
    ("seed",): "seeds",
    ("evaluation", "split"): "nothing: tuning uses validation, what is reported the test split",
}

Settings = dict[str, Any]
_USUAL: Settings = {"runtime": {"device": "auto"}}  # a comparison uses an accelerator where there is one


@dataclass(config=_STRICT_KEYS, frozen=True)
class Variant:
    """A data set or a partition: a name for the tables and file names, and nested settings."""

    name: str
    settings: Settings = Field(default_factory=dict)


@dataclass(config=_STRICT_KEYS, frozen=True)
class MethodEntry:
    """A line of the tables: a method with settings of its own. ``method`` None: the name is the method's."""

    name: str
    method: str | None = None
    settings: Settings = Field(default_factory=dict)
    learning_rates: list[Annotated[float, Field(gt=0)]] | None = None  # None: the spec's grid
    tune: bool = True  # False: a control without training, which takes the rate of the settings

    @property
    def method_name(self) -> str:
        """The method's name in the registry."""
        return self.method or self.name


@dataclass(config=_STRICT_KEYS, frozen=True)
class Spec:
    """A comparison; ``load_spec`` reads and checks it."""

    methods: list[MethodEntry]
    data_sets: list[Variant]
    seeds: list[Annotated[int, Field(ge=0)]]
    partitions: list[Variant] = Field(default_factory=lambda: [Variant("base")])
    base: Settings = Field(default_factory=dict)
    learning_rates: list[Annotated[float, Field(gt=0)]] | None = None  # None: no tuning
    tuning_seed: Annotated[int, Field(ge=0)] = 0
    chosen_by: Literal["global", "personalized"] = "global"  # validation accuracy that decides between rates
    target: float | str | dict[str, float | str] | None = None

    def settings(self) -> list["Setting"]:
        """Every data set × partition, in the order of the tables."""
        return [Setting(d.name, p.name) for d, p in itertools.product(self.data_sets, self.partitions)]

    def grid(self, entry: MethodEntry) -> list[float]:
        """The learning rates tried for a method; empty: none is tuned."""
        return list(entry.learning_rates or self.learning_rates or []) if entry.tune else []

    def target_of(self, data_set: str) -> float | str | None:
        """A number, the name of the method whose final accuracy is the target, or None."""
        target = self.target.get(data_set) if isinstance(self.target, dict) else self.target
        return target.removeprefix(_FINAL_OF) if isinstance(target, str) else target


@plain(frozen=True, order=True)
class Setting:
    """Where methods meet: a data set and a partition, by name."""

    data_set: str
    partition: str

    @property
    def title(self) -> str:
        """For headings."""
        return f"{self.data_set}, {self.partition}"


@plain(frozen=True)
class PlannedRun:
    """One run. ``rate`` is the learning rate it tries or was given, None where none is tuned."""

    name: str
    setting: Setting
    entry: str
    seed: int
    rate: float | None
    config: Config
    tuning: bool = False


def tuning_runs(spec: Spec) -> list[PlannedRun]:
    """For each method and setting one run for each learning rate, evaluated on validation data, with one seed."""
    return [
        _run(spec, setting, entry, spec.tuning_seed, rate, tuning=True)
        for setting in spec.settings()
        for entry in spec.methods
        for rate in spec.grid(entry)
    ]


def final_runs(spec: Spec, rates: Mapping[tuple[Setting, str], float]) -> list[PlannedRun]:
    """The runs that are reported; ``rates`` holds the chosen rate of each setting and method that is tuned.

    Runs whose rate is not chosen yet are left out.
    """
    return [
        _run(spec, setting, entry, seed, rates.get((setting, entry.name)), tuning=False)
        for seed in spec.seeds
        for setting in spec.settings()
        for entry in spec.methods
        if not spec.grid(entry) or (setting, entry.name) in rates
    ]


def _run(
    spec: Spec, setting: Setting, entry: MethodEntry, seed: int, rate: float | None, *, tuning: bool
) -> PlannedRun:
    data_set = next(d for d in spec.data_sets if d.name == setting.data_set)
    partition = next(p for p in spec.partitions if p.name == setting.partition)
    content: dict[str, Any] = {}
    layers = [spec.base, _named_data(data_set), data_set.settings, partition.settings, entry.settings]
    layers.append({"method": entry.method_name, "seed": seed, "evaluation": {"split": _split(tuning)}})
    if rate is not None:
        layers.append({"training": {"learning_rate": rate}})
    for layer in layers:
        content = merge(content, layer)
    last = f"rate-{rate:g}" if tuning else f"seed-{seed}"
    name = "--".join((setting.data_set, setting.partition, entry.name, last))
    return PlannedRun(name, setting, entry.name, seed, rate, build_config(content), tuning)


def _split(tuning: bool) -> str:
    return "validation" if tuning else "test"


def _named_data(data_set: Variant) -> Settings:
    """A data set without settings of its own that say what to read is one by name."""
    own = data_set.settings.get("data")
    return {} if isinstance(own, Mapping) and {"name", "file"} & own.keys() else {"data": {"name": data_set.name}}


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
            _known(entry, MethodEntry if axis == "methods" else Variant, f"{axis}.")
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
    _check_target(spec)
    chosen = {(s, e.name): spec.grid(e)[0] for s in spec.settings() for e in spec.methods if spec.grid(e)}
    for runs in (tuning_runs(spec), final_runs(spec, chosen)):
        _check_runs(runs)


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


def _check_target(spec: Spec) -> None:
    names = [d.name for d in spec.data_sets]
    if isinstance(spec.target, dict):
        for key in spec.target:
            if key not in names:
                raise InputError(f"Key 'target.{key}' names no data set of this comparison.{nearest_hint(key, names)}")
    stated = list(spec.target.values()) if isinstance(spec.target, dict) else [spec.target]
    entries = [entry.name for entry in spec.methods]
    for target in stated:
        if isinstance(target, str):
            method = target.removeprefix(_FINAL_OF)
            if method == target or method not in entries:
                raise InputError(
                    f"Key 'target' cannot be {target!r}: give an accuracy from 0 to 1, or '{_FINAL_OF}METHOD' with a "
                    f"method of this comparison.{nearest_hint(method, entries)}"
                )
        elif target is not None and not 0 < target <= 1:
            raise InputError(f"Key 'target' cannot be {target!r}: an accuracy lies between 0 and 1.")


def _check_runs(runs: list[PlannedRun]) -> None:
    seen: dict[str, str] = {}
    for run in runs:
        digest = config_hash(resolve(run.config)) + run.config.data.dir
        if digest in seen:
            raise InputError(f"Duplicate run: '{run.name}' has the same settings as '{seen[digest]}'; remove one.")
        seen[digest] = run.name
