"""The methods by name. To add one, write a file with a class and list it here."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from fibecfed.config import Config, build_config, merge, nearest_hint, not_offered, to_dict
from fibecfed.errors import InputError
from fibecfed.methods.adalora import AdaLora
from fibecfed.methods.adapter import Adapter
from fibecfed.methods.base import FederatedAveraging
from fibecfed.methods.centralized_lora import CentralizedLora
from fibecfed.methods.controls import (
    DeviceMajority,
    FedavgFinetune,
    FedavgPrior,
    LocalHead,
    LossOrder,
    RandomPace,
    RandomSubset,
    RidgeHead,
)
from fibecfed.methods.delta_lora import DeltaLora
from fibecfed.methods.fedalt import FedAlt
from fibecfed.methods.fedprox import FedProx
from fibecfed.methods.fedsa_lora import FedsaLora
from fibecfed.methods.ffa_lora import FfaLora
from fibecfed.methods.fibecfed import FibecFed
from fibecfed.methods.local_only import LocalOnly
from fibecfed.methods.momd import Momd
from fibecfed.methods.moms_adamd import MomsAdamd
from fibecfed.methods.prompts import (
    AttentivePromptTuning,
    FedPrompt,
    InstancePromptTuning,
    LatePromptTuning,
    PromptTuning,
    PTuningV2,
)
from fibecfed.methods.rounds import settled_by_rounds
from fibecfed.methods.short_first import SequenceLengthWarmUp, Shortformer
from fibecfed.methods.slora import SLora
from fibecfed.methods.tuning_of import tuning_of
from fibecfed.methods.voc import Voc
from fibecfed.tuning import TUNINGS, Tuning

METHODS: dict[str, type[FederatedAveraging]] = {
    m.name: m
    for m in (
        FibecFed,
        FederatedAveraging,
        CentralizedLora,
        LocalOnly,
        DeviceMajority,
        RidgeHead,
        FedavgPrior,
        LocalHead,
        FedavgFinetune,
        RandomPace,
        RandomSubset,
        LossOrder,
        Momd,
        MomsAdamd,
        FedAlt,
        FfaLora,
        FedsaLora,
        FedProx,
        Voc,
        SequenceLengthWarmUp,
        Shortformer,
        SLora,
        DeltaLora,
        Adapter,
        PromptTuning,
        FedPrompt,
        PTuningV2,
        LatePromptTuning,
        InstancePromptTuning,
        AttentivePromptTuning,
        AdaLora,
    )
}


def method_class(name: str) -> type[FederatedAveraging]:
    """The method of that name. Raises InputError naming the nearest known one."""
    if name not in METHODS:
        hint = not_offered(name) + nearest_hint(name, METHODS)
        raise InputError(f"Unknown method '{name}' (key 'method').{hint} Known: {', '.join(METHODS)}.")
    return METHODS[name]


_OFF: dict[str, dict[str, Any]] = {
    "curriculum": {"score": "none", "fresh": False, "stratified": True, "pacing": "linear"},
    "sharing": {"layers": "all", "rows": "dense", "head": "shared"},
    "training": {"optimizer": "adamw", "momentum": 0.0},
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
    changes: dict[str, Any] = {"tuning": tuning_of(config, method)}
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
    for section in sorted(set().union(*(m.sections for m in METHODS.values())) - METHODS[name].sections):
        changed = [key for key, value in content[section].items() if value != defaults[section][key]]
        if changed:
            users = ", ".join(m for m, cls in METHODS.items() if section in cls.sections)
            raise InputError(f"method={name} does not use {section}.{changed[0]}; it is a setting of {users}.")


__all__ = ["METHODS", "FederatedAveraging", "in_use", "method_class", "resolve", "settled_by_rounds", "tuning"]
