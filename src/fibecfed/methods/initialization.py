"""A device's initialization: one pass over its examples gives difficulty, layer scores and the rows worth training.

docs/method.md sections 3, 5 and 6. What is found stays on the device, but for the layer scores and what the count of
layers needs.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fibecfed.config import Config
from fibecfed.curriculum import Scores, length, rarity
from fibecfed.federation import Device, DeviceState
from fibecfed.seeding import stream
from fibecfed.sharing import (
    DeviceLoss,
    LayerChange,
    MomentumFisher,
    RowMask,
    choose_rows,
    keep_layers,
    layer_sensitivity,
    lossless_share,
    plateau_share,
    reset_losses,
)
from fibecfed.tasks import Batch
from fibecfed.tuning import Layout, put_tensors

DIFFICULTY = "difficulty"
FIRST_DIFFICULTY = "first difficulty"  # kept beside refreshed scores, to tell how stable ranks are
ROWS = "rows/"
_LIPSCHITZ_SAMPLES = 1  # each costs 20 Hessian-vector products
_PLATEAU_PROBES = 2
HELD_OUT = 0.2  # of a device's examples, for losses that choose or count layers [D]
_SCORED_BY_MODEL = ("fisher", "fisher-model", "loss")
_NOISE_SCORES = ("sensitivity", "gain")


@dataclass(frozen=True)
class Initialized:
    """What one device found. ``layer_scores`` (L,) is None where the layers are chosen without devices."""

    state: DeviceState
    layer_scores: np.ndarray | None


def initialize(
    device: Device, tensors: Mapping[str, Tensor], config: Config, layout: Layout, with_layer_scores: bool
) -> Initialized:
    """Steps 1 and 5: score examples and layers with the model ``tensors``, and choose rows in every LoRA matrix.

    The rows of a matrix do not depend on which layers will be shared, so they are chosen at once and the Fisher
    diagonal need not be kept. The state holds every layer's LoRA as it is now: what turns out to be local starts there.
    """
    curriculum, sharing = config.curriculum, config.sharing
    matrices = layout.only(p.name for p in layout if p.layer is not None)
    fisher = MomentumFisher(matrices, sharing.momentum) if _uses_fisher_rows(config) else None
    noise = _NoiseSum(device, config) if with_layer_scores and sharing.layers in _NOISE_SCORES else None
    memory: dict[str, Tensor] = {}
    if curriculum.score in _SCORED_BY_MODEL or fisher is not None or noise is not None:
        kind = curriculum.score if curriculum.score in _SCORED_BY_MODEL else "loss"
        scores, operations = device.site.executor.score(
            tensors,
            kind,  # type: ignore[arg-type]  # one of the three by the line above
            device.indices,
            stream(config.seed, "scoring order", device.number),
            on_gradients=fisher.fold if fisher else None,
            on_noise_gradient=noise.fold if noise else None,
        )
        device.count_scored(device.examples, operations)
        if noise is not None:
            device.count_scored(0, 2 * device.site.executor.operations.prediction(list(scores.sizes)))
    else:
        scores = None
    difficulty = _difficulty(device, config, scores)
    if difficulty is not None:
        memory[DIFFICULTY] = torch.from_numpy(difficulty)
        if curriculum.refresh:
            memory[FIRST_DIFFICULTY] = torch.from_numpy(difficulty.copy())
    local: dict[str, Tensor] = {}
    if sharing.layers != "all":
        rng = stream(config.seed, "random rows", device.number)
        mask = choose_rows(sharing.rows or "dense", matrices, sharing.density, fisher.values if fisher else None, rng)
        memory |= {f"{ROWS}{name}": rows for name, rows in mask.to_tensors().items()}
        local = {p.name: tensors[p.name] for p in matrices}
    layer_scores = None
    if noise is not None:
        layer_scores = noise.total.scores("gain" if sharing.layers == "gain" else "sensitivity")
    elif with_layer_scores and sharing.layers == "reset_loss":
        layer_scores = reset_losses(held_out_loss(device, tensors, config, layout), layout.layers)
    return Initialized(DeviceState(local=local, memory=memory), layer_scores)


def _uses_fisher_rows(config: Config) -> bool:
    return config.sharing.rows == "fisher" and config.sharing.layers != "all"


def _difficulty(device: Device, config: Config, scores: Scores | None) -> np.ndarray | None:
    kind, data = config.curriculum.score, device.site.data.train
    if kind in _SCORED_BY_MODEL:
        assert scores is not None
        return scores.difficulty
    if kind == "length":
        return length(data, device.indices)
    if kind == "rarity":
        return rarity(data, device.indices)
    if kind == "random":
        return stream(config.seed, "random order", device.number).random(device.examples)
    return None


class _NoiseSum:
    """Layer changes under noise, summed over the batches of the scoring pass."""

    def __init__(self, device: Device, config: Config) -> None:
        self._executor = device.site.executor
        self._sharing = config.sharing
        self._generator = stream(config.seed, "layer noise", device.number)
        self.total = LayerChange(np.zeros(len(self._executor.blocks)), np.zeros(len(self._executor.blocks)), 0)

    def fold(self, batch: Batch, gradient: Tensor) -> None:
        direction = gradient if self._sharing.noise == "worst_case" else self._generator
        self.total += layer_sensitivity(
            self._executor.model, self._executor.blocks, batch, direction, self._sharing.sigma
        )


class held_out_loss:  # noqa: N801 - used as a function of the kept layers
    """kept layers -> mean loss over a seeded fifth of the device's examples with the other layers' LoRA reset.

    Source: docs/method.md section 5 [D]; these examples were trained on in the warm-up, whose LoRA is being judged.
    """

    def __init__(self, device: Device, tensors: Mapping[str, Tensor], config: Config, layout: Layout) -> None:
        self._device, self._tensors, self._layout = device, tensors, layout
        order = stream(config.seed, "held-out fifth", device.number).permutation(device.examples)
        self._chosen = np.sort(device.indices[order[: max(1, round(HELD_OUT * device.examples))]])

    def __call__(self, kept: frozenset[int]) -> float:
        data, executor = self._device.site.data.train, self._device.site.executor
        counts = executor.counts(keep_layers(self._tensors, self._layout, kept), data, self._chosen)
        lengths = data.lengths[self._chosen]
        self._device.count_scored(len(self._chosen), executor.operations.prediction([(1, int(n)) for n in lengths]))
        return float(counts.values["loss"].mean())


def kept_share(
    device: Device, tensors: Mapping[str, Tensor], config: Config, layout: Layout, radius: float
) -> float | None:
    """r_k = 1 - m/d of count=lossless or plateau, from the Hessian over some of the device's examples; None: no gap.

    ``radius`` counts for lossless. Raises InputError where the model cannot be differentiated twice.
    Source: docs/method.md section 5 [L].
    """
    sharing, executor, data = config.sharing, device.site.executor, device.site.data.train
    rng = stream(config.seed, "spectrum", device.number)
    chosen = device.indices[rng.permutation(device.examples)[: sharing.lanczos_examples]]
    size = config.training.batch_size
    batches = [data.batch(chosen[start : start + size]).to(executor.device) for start in range(0, len(chosen), size)]
    names = [p.name for p in layout if p.layer is not None]
    put_tensors(executor.model, tensors)
    loss = DeviceLoss(executor.model, executor.task, batches, names)
    if sharing.count == "lossless":
        share = lossless_share(loss, radius, sharing.lanczos_steps, _LIPSCHITZ_SAMPLES, rng).fraction
    else:
        share = plateau_share(loss, sharing.lanczos_steps, _PLATEAU_PROBES, rng)
    sizes = [(len(b), int(b.input_ids.shape[1])) for b in batches]
    passes = loss.gradients + 2 * loss.products  # a product differentiates a gradient again
    device.count_scored(len(chosen) * passes, passes * executor.operations.training(sizes))
    return share


def kept_rows_of(state: DeviceState) -> RowMask:
    """The rows a device chose in every LoRA matrix."""
    found = {name.removeprefix(ROWS): rows for name, rows in state.memory.items() if name.startswith(ROWS)}
    return RowMask(found)


def balanced_accuracy(device: Device, tensors: Mapping[str, Tensor]) -> float:
    """Mean recall over the device's own labels, of a model: whether it can judge difficulty yet."""
    data, executor = device.site.data.train, device.site.executor
    counts = executor.counts(tensors, data, device.indices)
    lengths = data.lengths[device.indices]
    device.count_scored(device.examples, executor.operations.prediction([(1, int(n)) for n in lengths]))
    confusion = counts.values["confusion"].sum(axis=0)
    present = confusion.sum(axis=1) > 0
    return float((confusion.diagonal()[present] / confusion.sum(axis=1)[present]).mean())
