"""Initialization at no pass of its own: a device's first training tells difficulty and the rows worth training.

docs/method.md sections 3 and 6. The device trains on all its examples that time, and the layers of its own densely.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fibecfed.config import Config
from fibecfed.errors import InputError
from fibecfed.federation import Device, DeviceState
from fibecfed.methods.fibecfed_parts.initialization import (
    CHANCES,
    DIFFICULTY,
    FIRST_DIFFICULTY,
    ROWS,
    SCORED_BY_MODEL,
    difficulty_without_model,
)
from fibecfed.seeding import stream
from fibecfed.sharing import MomentumFisher, RowChooser, choose_rows
from fibecfed.training import LocalResult
from fibecfed.tuning import Layout

_NEEDS_A_PASS = {
    "curriculum.score": ("fisher-model",),
    "sharing.layers": ("sensitivity", "gain", "reset_loss"),
    "sharing.count": ("functional", "lossless", "plateau"),
}


def refuse_passes(config: Config) -> None:
    """Raises InputError for settings that need a pass over the examples beside training."""
    for key, values in _NEEDS_A_PASS.items():
        section, name = key.split(".")
        value = getattr(getattr(config, section), name)
        if value in values:
            raise InputError(
                f"{key}={value} needs a pass over the examples, which curriculum.initialization=training does without; "
                "take curriculum.score=fisher or loss, sharing.layers=consensus (or first, last, random, all) and "
                "sharing.count as a number, or leave curriculum.initialization=pass."
            )


class StepFisher:
    """The momentum Fisher of a layout's parameters out of the gradients of training steps, as they come."""

    def __init__(self, layout: Layout, momentum: float) -> None:
        self._fisher = MomentumFisher(layout, momentum)

    def observe(self, parameters: Mapping[str, Tensor]) -> None:
        """Fold one step's gradients of the mean loss; a parameter that the loss does not reach has zeros."""
        self._fisher.fold({n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in parameters.items()})

    def result(self) -> dict[str, Tensor]:
        """F by parameter name."""
        return {name: value.cpu() for name, value in self._fisher.values.items()}


def before_first_training(device: Device, config: Config, layout: Layout) -> DeviceState:
    """What a device knows without any model, beside what it kept: scores of its text, rows that no Fisher chooses."""
    memory: dict[str, Tensor] = {}
    difficulty = difficulty_without_model(device, config)
    if difficulty is not None:
        memory[DIFFICULTY] = torch.from_numpy(difficulty)
    if config.sharing.layers != "all":
        kind: RowChooser = config.sharing.rows or "dense"
        rng = stream(config.seed, "random rows", device.number)
        matrices = layout.only(p.name for p in layout if p.layer is not None)
        mask = choose_rows("dense" if kind == "fisher" else kind, matrices, config.sharing.density, None, rng)
        memory = {f"{ROWS}{name}": rows for name, rows in mask.to_tensors().items()} | memory
    kept = device.state or DeviceState(local={}, memory={})
    return DeviceState(kept.local, {**kept.memory, **memory})


def watched(device: Device, config: Config, matrices: Layout) -> dict[str, Any]:
    """The fields of a first training's job; ``matrices``: the layers' parameters that train in it."""
    fields: dict[str, Any] = {}
    if config.curriculum.score == "fisher":
        fields["difficulty"] = (device.indices, np.full(device.examples, np.nan))
    if config.curriculum.score == "loss" or config.curriculum.cap == "auto":
        fields["counted"] = True
    fields["with_chances"] = config.curriculum.cap == "auto"
    if config.sharing.rows == "fisher" and config.sharing.layers != "all":
        fields["observer"] = StepFisher(matrices, config.sharing.momentum)
    return fields


def learned(device: Device, config: Config, matrices: Layout, result: LocalResult) -> dict[str, Tensor]:
    """What a device keeps of its first training: the difficulties, and the rows that train from now on."""
    memory: dict[str, Tensor] = {}
    if config.curriculum.score in SCORED_BY_MODEL:
        difficulty = _complete(_scores(device, result))
        if config.curriculum.per_token and config.curriculum.score == "loss":
            data = device.site.data
            difficulty = difficulty / data.train.units(data.task, device.indices)
        memory[DIFFICULTY] = torch.from_numpy(difficulty)
        if config.curriculum.refresh:
            memory[FIRST_DIFFICULTY] = torch.from_numpy(difficulty.copy())
        if config.curriculum.cap == "auto":
            memory[CHANCES] = torch.from_numpy(_chances(device, result))
    if config.sharing.rows == "fisher" and config.sharing.layers != "all":
        mask = choose_rows("fisher", matrices, config.sharing.density, result.observed)
        memory |= {f"{ROWS}{name}": rows for name, rows in mask.to_tensors().items()}
    return memory


def _scores(device: Device, result: LocalResult) -> np.ndarray:
    """(n,) in the order of the device's examples, NaN where training did not come."""
    if result.difficulty is not None:
        return result.difficulty
    assert result.seen is not None  # asked for
    scores = np.full(device.examples, np.nan)
    scores[np.searchsorted(device.indices, result.seen.examples)] = result.seen.counts.values["loss"]
    return scores


def _chances(device: Device, result: LocalResult) -> np.ndarray:
    """(n, G) in the order of the device's examples; where training did not come all groups have chance 0."""
    seen = result.seen
    assert seen is not None  # asked for
    assert seen.chances is not None
    chances = np.zeros((device.examples, seen.chances.shape[1]), np.float32)
    chances[np.searchsorted(device.indices, seen.examples)] = seen.chances
    return chances


def _complete(scores: np.ndarray) -> np.ndarray:
    """An example that training.local_steps left out is taken for one of median difficulty (project decision)."""
    return np.where(np.isnan(scores), np.nanmedian(scores), scores)
