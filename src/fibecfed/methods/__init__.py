"""The methods by name. To add one, write a file with a class and list it here."""

from typing import Any

from fibecfed.config import Config, build_config, merge, nearest_hint, to_dict
from fibecfed.errors import InputError
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
from fibecfed.methods.fibecfed import FibecFed
from fibecfed.methods.kinds import tuning_of
from fibecfed.methods.local_only import LocalOnly
from fibecfed.methods.prompts import (
    AttentivePromptTuning,
    FedPrompt,
    InstancePromptTuning,
    LatePromptTuning,
    PromptTuning,
    PTuningV2,
)
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
        Adapter,
        PromptTuning,
        FedPrompt,
        PTuningV2,
        LatePromptTuning,
        InstancePromptTuning,
        AttentivePromptTuning,
    )
}


def method_class(name: str) -> type[FederatedAveraging]:
    """The method of that name. Raises InputError naming the nearest known one."""
    if name not in METHODS:
        hint = nearest_hint(name, METHODS)
        raise InputError(f"Unknown method '{name}' (key 'method').{hint} Known: {', '.join(METHODS)}.")
    return METHODS[name]


_OFF: dict[str, dict[str, Any]] = {
    "curriculum": {"score": "none", "fresh": False},
    "sharing": {"layers": "all", "rows": "dense", "head": "shared"},
}


def tuning(config: Config) -> Tuning:
    """The kind of tuning of a run. Raises InputError as ``resolve``."""
    return TUNINGS[tuning_of(config, method_class(config.method))]


def resolve(config: Config) -> Config:
    """The configuration with every key that is left to the method set to what the method says.

    Raises InputError for an unknown method, or settings that it has no use for.
    """
    method = method_class(config.method)
    content: dict[str, Any] = to_dict(config)
    changes: dict[str, Any] = {"tuning": tuning_of(config, method)}
    for section, keys in merge(_OFF, method.parts).items():
        left = {key: value for key, value in keys.items() if content[section][key] is None}
        changes[section] = left
    return build_config(merge(content, changes))


__all__ = ["METHODS", "FederatedAveraging", "method_class", "resolve", "tuning"]
