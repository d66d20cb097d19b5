"""What every method would take with the same settings, or why it cannot be had."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from fibecfed.config import Config
from fibecfed.data import load_splits
from fibecfed.errors import InputError
from fibecfed.methods import refusal, resolve, usable_methods
from fibecfed.models import resolve as find_model
from fibecfed.runs.estimate import Round, ordinary_round
from fibecfed.runs.weightless import counted_only
from fibecfed.runtime import assemble
from fibecfed.tasks import task_kind


@dataclass(frozen=True)
class MethodsFor:
    """Of each method its round, why it cannot be had, or None where it can be had and nothing was counted."""

    found: Mapping[str, Round | str | None]
    uncounted: str | None = None  # why no round was counted


def methods_for(config: Config) -> MethodsFor:
    """What a round of each method takes on one device, or why it cannot be had with these settings.

    Which methods run for a language model is known before its data and its folder are there; rounds are counted where
    both are. Raises InputError if no method can be had.
    """
    configs = {name: dataclasses.replace(config, method=name) for name in usable_methods()[0]}
    found: dict[str, Round | str | None] = {name: _refused(one) for name, one in configs.items()}
    uncounted = _missing(config) if task_kind(config).generates else None
    if uncounted is None:
        weights = not counted_only(config)
        for name, one in configs.items():
            if found[name] is None:
                found[name] = _counted(one, weights)
    reasons = [why for why in found.values() if isinstance(why, str)]
    if len(reasons) == len(found):
        raise InputError(reasons[0])
    return MethodsFor(found, uncounted)


def _refused(config: Config) -> str | None:
    """What the task has against the method, or else what the method has against the settings."""
    try:
        against = refusal(config)
        if against is None:
            resolve(config)
    except InputError as error:
        return str(error)
    return None if against is None else f"It {against}."


def _missing(config: Config) -> str | None:
    """Why nothing can be counted: data or a model that is not there."""
    try:
        load_splits(config)
        find_model(config.model)
    except InputError as error:
        return str(error)
    return None


def _counted(config: Config, weights: bool) -> Round | str:
    try:
        # Without its job, whose tensors are large.
        return dataclasses.replace(ordinary_round(assemble(config, weights=weights)), job=None)
    except InputError as error:
        return str(error)
