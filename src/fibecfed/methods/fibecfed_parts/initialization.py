"""A device's initialization: one pass over its examples gives difficulty, layer scores and the rows worth training.

docs/method.md sections 3, 5 and 6. What is found stays on the device, but for the layer scores and what the count of
layers needs.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fibecfed.config import Config
from fibecfed.curriculum import Scores, length, rarity
from fibecfed.federation import Device, DeviceState
from fibecfed.seeding import stream
from fibecfed.sharing import RowMask, choose_rows, keep_layers
from fibecfed.tasks import task_kind
from fibecfed.training import CountJob, CountResult, Job, LayerNoise, ScoreJob, ScoreResult
from fibecfed.tuning import Layout

DIFFICULTY = "difficulty"
FIRST_DIFFICULTY = "first difficulty"  # kept beside refreshed scores, to tell how stable ranks are
CHANCES = "chances"  # (n, G) what the model said of each group as it scored, where the cap is auto
ROWS = "rows/"
HELD_OUT = 0.2  # of a device's examples, for losses that choose or count layers [D]
SCORED_BY_MODEL = ("fisher", "fisher-model", "loss")  # of curriculum.score
_NOISE_SCORES = ("sensitivity", "gain")


@dataclass(frozen=True)
class Initialized:
    """What one device found. ``layer_scores`` (L,) is None where the layers are chosen without devices."""

    state: DeviceState
    layer_scores: np.ndarray | None


def initialize(
    device: Device, tensors: Mapping[str, Tensor], config: Config, layout: Layout, with_layer_scores: bool
) -> Generator[Job, Any, Initialized]:
    """Steps 1 and 5: score examples and layers with the model ``tensors``, and choose rows in every LoRA matrix.

    The rows of a matrix do not depend on which layers will be shared, so they are chosen at once and the Fisher
    diagonal need not be kept. The state holds every layer's LoRA as it is now: what turns out to be local starts there.
    """
    curriculum, sharing = config.curriculum, config.sharing
    matrices = layout.only(p.name for p in layout if p.layer is not None)
    momentum = sharing.momentum if sharing.rows == "fisher" and sharing.layers != "all" else None
    noise = None
    if with_layer_scores and sharing.layers in _NOISE_SCORES:
        noise = LayerNoise(sharing.noise, sharing.sigma, stream(config.seed, "layer noise", device.number))
    memory: dict[str, Tensor] = {}
    found: ScoreResult | None = None
    if curriculum.score in SCORED_BY_MODEL or momentum is not None or noise is not None:
        found = yield ScoreJob(
            device.number,
            tensors,
            curriculum.score if curriculum.score in SCORED_BY_MODEL else "loss",  # type: ignore[arg-type]
            device.indices,
            stream(config.seed, "scoring order", device.number),
            momentum,
            noise,
            curriculum.cap == "auto",
        )
        device.count_scored(device.examples, found.operations)
    difficulty = _difficulty(device, config, None if found is None else found.scores)
    if difficulty is not None:
        memory[DIFFICULTY] = torch.from_numpy(difficulty)
        if curriculum.refresh:
            memory[FIRST_DIFFICULTY] = torch.from_numpy(difficulty.copy())
    if found is not None and found.scores.chances is not None:
        memory[CHANCES] = torch.from_numpy(found.scores.chances)
    local: dict[str, Tensor] = {}
    if sharing.layers != "all":
        rng = stream(config.seed, "random rows", device.number)
        fisher = None if found is None else found.fisher
        mask = choose_rows(sharing.rows or "dense", matrices, sharing.density, fisher, rng)
        memory |= {f"{ROWS}{name}": rows for name, rows in mask.to_tensors().items()}
        local = {p.name: tensors[p.name] for p in matrices}
    layer_scores = None
    if found is not None and found.layers is not None:
        layer_scores = found.layers.scores("gain" if sharing.layers == "gain" else "sensitivity")
    elif with_layer_scores and sharing.layers == "reset_loss":
        everything = range(layout.layers)
        without_one = [frozenset(everything) - {layer} for layer in everything]
        layer_scores = yield from held_out_losses(device, tensors, config, layout, without_one)
    return Initialized(DeviceState(local=local, memory=memory), layer_scores)


def _difficulty(device: Device, config: Config, scores: Scores | None) -> np.ndarray | None:
    if config.curriculum.score in SCORED_BY_MODEL:
        assert scores is not None
        return scores.difficulty
    return difficulty_without_model(device, config)


def difficulty_without_model(device: Device, config: Config) -> np.ndarray | None:
    """(n,) the scores of the device's examples that no model is asked for; None if it is, or there are none."""
    kind, data = config.curriculum.score, device.site.data.train
    if kind == "length":
        return length(data, device.indices)
    if kind == "rarity":
        return rarity(data, device.indices)
    if kind == "random":
        return stream(config.seed, "random order", device.number).random(device.examples)
    return None


def held_out_losses(
    device: Device, tensors: Mapping[str, Tensor], config: Config, layout: Layout, kept: Sequence[frozenset[int]]
) -> Generator[Job, Any, np.ndarray]:
    """(len(kept),) mean loss over a seeded fifth of the device's examples with the LoRA of all layers but those reset.

    Source: docs/method.md section 5 [D]; these examples were trained on in the warm-up, whose LoRA is being judged.
    """
    order = stream(config.seed, "held-out fifth", device.number).permutation(device.examples)
    chosen = np.sort(device.indices[order[: max(1, round(HELD_OUT * device.examples))]])
    losses = np.empty(len(kept))
    for position, layers in enumerate(kept):
        model = keep_layers(tensors, layout, layers)
        found: CountResult = yield CountJob(device.number, model, device.site.data.train, chosen)
        device.count_scored(len(chosen), found.operations)
        losses[position] = found.counts.values["loss"].mean()
    return losses


def kept_rows_of(state: DeviceState) -> RowMask:
    """The rows a device chose in every LoRA matrix."""
    found = {name.removeprefix(ROWS): rows for name, rows in state.memory.items() if name.startswith(ROWS)}
    return RowMask(found)


def judgements_key(config: Config) -> str:
    """Under which name the server and method.json hold how well the model judged in each warm-up round."""
    kind = task_kind(config)
    return f"warm_up_{kind.judged_by or kind.metric}"
