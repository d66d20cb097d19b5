"""What a comparison compares: methods × data sets × partitions × seeds, and the runs that this comes to."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass as plain
from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from fibecfed.config import Config, build_config, merge
from fibecfed.results import PROTOCOLS

_STRICT_KEYS = ConfigDict(extra="forbid")
REFERENCE = "fedavg-lora"
FINAL_OF = "final {metric} of "
Settings = dict[str, Any]


@dataclass(config=_STRICT_KEYS, frozen=True)
class Variant:
    """A data set or a partition: a name for the tables and file names, and nested settings."""

    name: str
    settings: Settings = Field(default_factory=dict)


@dataclass(config=_STRICT_KEYS, frozen=True)
class Partition(Variant):
    """A block of settings: how data is divided, spoilt or sent. ``data_sets`` None: it is there with every one."""

    data_sets: list[str] | None = None


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
    """A comparison; ``reading.load_spec`` reads and checks it."""

    methods: list[MethodEntry]
    data_sets: list[Variant]
    seeds: list[Annotated[int, Field(ge=0)]]
    partitions: list[Partition] = Field(default_factory=lambda: [Partition("base")])
    base: Settings = Field(default_factory=dict)
    learning_rates: list[Annotated[float, Field(gt=0)]] | None = None  # None: no tuning
    tuning_seed: Annotated[int, Field(ge=0)] = 0
    chosen_by: Literal["own", "global", "personalized"] = "own"  # validation score that decides; own: each protocol's
    widenings: Annotated[int, Field(ge=0)] = 3  # times that a grid is widened while its best rate is at an edge
    split: Literal["test", "validation"] = "test"  # what the reported runs are evaluated on
    reference: str | None = None  # the line that others are compared with; None: fedavg-lora, if it is one
    target: float | str | dict[str, float | str] | None = None

    def settings(self) -> list["Setting"]:
        """Every data set × partition that goes with it, in the order of the tables."""
        pairs = itertools.product(self.data_sets, self.partitions)
        return [Setting(d.name, p.name) for d, p in pairs if p.data_sets is None or d.name in p.data_sets]

    @property
    def deciding(self) -> tuple[str, ...]:
        """The protocols by whose validation scores rates are chosen."""
        return PROTOCOLS if self.chosen_by == "own" else (self.chosen_by,)

    @property
    def compared_with(self) -> str:
        """The name of the reference line, which need not be there."""
        return self.reference or REFERENCE

    def grid(self, entry: MethodEntry) -> list[float]:
        """The learning rates tried for a method; empty: none is tuned."""
        return list(entry.learning_rates or self.learning_rates or []) if entry.tune else []

    def target_of(self, data_set: str) -> float | str | None:
        """A number, the name of the method whose final score is the target, or None."""
        target = self.target.get(data_set) if isinstance(self.target, dict) else self.target
        return target.split(" of ", 1)[-1] if isinstance(target, str) else target


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
    """One run. ``rate`` is the learning rate it tries or was given, None where none is tuned.

    ``protocols``: those whose tables it stands in; two runs of a line and seed share them if their rates differ.
    """

    name: str
    setting: Setting
    entry: str
    seed: int
    rate: float | None
    config: Config
    tuning: bool = False
    protocols: tuple[str, ...] = field(default=PROTOCOLS)
    given: Settings = field(default_factory=dict, compare=False)  # what the comparison's file says of this run


def tuning_runs(spec: Spec) -> list[PlannedRun]:
    """For each method and setting one run for each learning rate, evaluated on validation data, with one seed."""
    return [
        tuning_run(spec, setting, entry, rate)
        for setting in spec.settings()
        for entry in spec.methods
        for rate in spec.grid(entry)
    ]


def tuning_run(spec: Spec, setting: Setting, entry: MethodEntry, rate: float) -> PlannedRun:
    """The run that tries one rate."""
    return _run(spec, setting, entry, spec.tuning_seed, rate, tuning=True)


def final_runs(spec: Spec, rates: Mapping[tuple[Setting, str], Mapping[str, float]]) -> list[PlannedRun]:
    """The runs that are reported; ``rates`` holds the chosen rates, by protocol, of each setting and method tuned.

    One run where the protocols chose the same rate, else two. Runs whose rate is not chosen yet are left out.
    """
    return [
        _run(spec, setting, entry, seed, rate, protocols=protocols)
        for seed in spec.seeds
        for setting in spec.settings()
        for entry in spec.methods
        if not spec.grid(entry) or (setting, entry.name) in rates
        for rate, protocols in _shared(rates.get((setting, entry.name)))
    ]


def _shared(rates: Mapping[str, float] | None) -> list[tuple[float | None, tuple[str, ...]]]:
    """Each rate once, with the protocols that chose it."""
    if rates is None:
        return [(None, PROTOCOLS)]
    return [(rate, tuple(p for p in PROTOCOLS if rates[p] == rate)) for rate in dict.fromkeys(rates.values())]


def _run(
    spec: Spec,
    setting: Setting,
    entry: MethodEntry,
    seed: int,
    rate: float | None,
    *,
    tuning: bool = False,
    protocols: tuple[str, ...] = PROTOCOLS,
) -> PlannedRun:
    data_set = next(d for d in spec.data_sets if d.name == setting.data_set)
    partition = next(p for p in spec.partitions if p.name == setting.partition)
    content: dict[str, Any] = {}
    layers = [spec.base, _named_data(data_set), data_set.settings, partition.settings, entry.settings]
    layers.append(
        {"method": entry.method_name, "seed": seed, "evaluation": {"split": "validation" if tuning else spec.split}}
    )
    if rate is not None:
        layers.append({"training": {"learning_rate": rate}})
    for layer in layers:
        content = merge(content, layer)
    last = f"rate-{rate:g}" if tuning else f"seed-{seed}"
    parts = [setting.data_set, setting.partition, entry.name, last]
    if PROTOCOLS[0] not in protocols:
        parts += protocols  # beside the run of the first protocol's rate
    return PlannedRun(
        "--".join(parts), setting, entry.name, seed, rate, build_config(content), tuning, protocols, content
    )


def _named_data(data_set: Variant) -> Settings:
    """A data set without settings of its own that say what to read is one by name."""
    own = data_set.settings.get("data")
    return {} if isinstance(own, Mapping) and {"name", "file"} & own.keys() else {"data": {"name": data_set.name}}


def first_rates(spec: Spec) -> dict[tuple[Setting, str], Mapping[str, float]]:
    """The first rate of each grid, for the names of runs before rates are chosen."""
    return {
        (setting, entry.name): dict.fromkeys(PROTOCOLS, spec.grid(entry)[0])
        for setting in spec.settings()
        for entry in spec.methods
        if spec.grid(entry)
    }
