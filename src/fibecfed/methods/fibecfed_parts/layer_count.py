"""How many layers are shared, and in which order they come: server and device half (docs/method.md section 5)."""

from collections.abc import Generator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fibecfed.config import Config
from fibecfed.federation import Device, Request
from fibecfed.methods.fibecfed_parts.initialization import held_out_losses
from fibecfed.seeding import stream
from fibecfed.sharing import divergence, fixed_count, functional_count, lossless_count, site_count
from fibecfed.training import CurvatureJob, CurvatureResult, Job
from fibecfed.tuning import Layout

Shares = Mapping[int, tuple[float | None, int]]  # device -> (r_k, n_k)


def ranked_layers(config: Config, layers: int, scored: list[int] | None) -> list[int]:
    """The layers from most to least worth sharing: by their scores, or as the setting orders them."""
    if scored is not None:
        return list(scored)
    if config.sharing.layers == "random":
        return [int(layer) for layer in stream(config.seed, "random layers").permutation(layers)]
    return list(range(layers)) if config.sharing.layers == "first" else list(range(layers))[::-1]


def set_count(config: Config, layers: int) -> tuple[int, str]:
    """N where the setting gives it, and the reason as a sentence."""
    count = config.sharing.count
    assert not isinstance(count, str)
    assert count is not None  # resolved
    return fixed_count(count, layers), f"sharing.count={count}"


def found_count(
    config: Config, layers: int, order: list[int], losses: list[float] | None, shares: Shares
) -> tuple[int, str]:
    """N by the functional, lossless or plateau rule from the devices' answers; half where a rule gives none.

    ``losses``: mean held-out losses with the 1, 2, ..., L best layers kept.
    """
    if losses is not None:
        found = functional_count(order, lambda kept: losses[len(kept) - 1])
        return found.count, f"the {found.count} best layers keep the held-out loss within 1 % of {losses[-1]:.4f}"
    counted = lossless_count(shares, layers)
    if counted.count is None:
        return fixed_count(0.5, layers), f"{counted.reason} Half of the layers instead"
    return counted.count, counted.reason.rstrip(".")


def count_by_sites(config: Config, layers: int, groups: Mapping[int, np.ndarray]) -> tuple[int, str]:
    """N from how much the devices' mixes of groups differ, and the reason as a sentence."""
    differ = divergence(groups)
    count = site_count(differ, layers, fixed_count(config.sharing.least, layers))
    return count, f"the sites' mixes differ by {differ:.2f} on a scale from 0 to 1"


def device_answer(
    device: Device, request: Request, config: Config, layout: Layout
) -> Generator[Job, Any, tuple[dict[str, Tensor], dict[str, Any]]]:
    """What the rule needs of one device: L losses, or its share of the spectrum. Tensors and info of the reply."""
    tensors, sharing = device.model(request.tensors), config.sharing
    if sharing.count == "functional":
        order = ranked_layers(config, layout.layers, request.info["order"])
        best = [frozenset(order[: count + 1]) for count in range(len(order))]
        losses = yield from held_out_losses(device, tensors, config, layout, best)
        return {"losses": torch.from_numpy(losses)}, {}
    rng = stream(config.seed, "spectrum", device.number)
    chosen = device.indices[rng.permutation(device.examples)[: sharing.lanczos_examples]]
    rule: Any = sharing.count
    radius = sharing.radius or request.info["radius"] or 0.0
    found: CurvatureResult = yield CurvatureJob(
        device.number, tensors, rule, chosen, radius, sharing.lanczos_steps, rng
    )
    device.count_scored(len(chosen) * found.passes, found.operations)
    return {}, {"kept_share": found.share}
