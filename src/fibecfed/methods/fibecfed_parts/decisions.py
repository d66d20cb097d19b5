"""What a run of FibecFed decided, for showing and saving. In deployment all but the layers stays on the device."""

from typing import Any

import numpy as np

from fibecfed.config import Config
from fibecfed.curriculum import (
    GROUP_SHARE_WARNING,
    group_share,
    group_share_by_chance,
    log_histogram,
    rank_stability,
)
from fibecfed.curriculum.selection import most_in_use, part_in_use
from fibecfed.federation import OF_DEVICES, Device, ServerState, Site
from fibecfed.methods.fibecfed_parts.confidence import CONFIDENCE, doubtful_of
from fibecfed.methods.fibecfed_parts.initialization import DIFFICULTY, FIRST_DIFFICULTY, judgements_key, kept_rows_of
from fibecfed.seeding import stream
from fibecfed.training import ScoreJob
from fibecfed.tuning import Layout

_RESCORED = 5  # devices whose examples are scored again to see whether ranks last


def decisions(
    site: Site, state: ServerState, config: Config, layout: Layout, shared: tuple[str, ...]
) -> dict[str, Any]:
    """Layers and why, densities, difficulty and how much of it is the group, ranks then and now, prefix by round.

    Reads the devices' states and scores up to five devices again with their final models; not counted as cost.
    """
    info = state.info
    found: dict[str, Any] = {
        "warm_up_rounds": info.get("warm_up", 0),
        judgements_key(config): info.get(judgements_key(config), []),
        "layers": info.get("layers"),
        "layer_scores": info.get("layer_scores"),
        "layer_scores_by_device": info.get(OF_DEVICES, {}).get("layer_scores"),
        "count_reason": info.get("count_reason"),
        "radius": info.get("radius"),
        "prefix": _prefix(config, info.get("warm_up", 0)),
        "warnings": [],
    }
    devices = [Device(site, number, version) for number, version in sorted(state.device_versions.items())]
    devices = [device for device in devices if device.state is not None]
    if info.get("layers") is not None and devices:
        found["density"] = _densities(devices, layout, info["layers"])
    scored = [device for device in devices if device.state and DIFFICULTY in device.state.memory]
    if scored:
        found["difficulty"] = _difficulty(scored, site)
        if config.curriculum.cap == "auto":
            pooled = state.memory.get(CONFIDENCE)
            doubtful = {str(device.number): doubtful_of(device, pooled) for device in scored}
            found["caps"] = {number: 1.0 if d is None else float(1 - d.mean()) for number, d in doubtful.items()}
            if pooled is not None and pooled[1, -1] > 0:
                found["wrong_share"] = float(pooled[0, -1] / pooled[1, -1])
        found["rank_stability"] = _stability(scored, site, config, state, shared)
        share = found["difficulty"]["group_share"]
        if share is not None and share > GROUP_SHARE_WARNING:
            found["warnings"].append(
                f"The {site.data.task.group} explains {share:.0%} of the variance of the difficulty ranks (above "
                f"{GROUP_SHARE_WARNING:.0%}): the scores were taken from a model that knew too little. "
                f"Ranking inside each {site.data.task.group} (curriculum.stratified) or a longer warm-up helps."
            )
    return found


def _prefix(config: Config, warm_up: int) -> list[float]:
    """Part of the data in use (or drawn from) in each round; the warm-up uses all."""
    curriculum, rounds = config.curriculum, config.federation.rounds
    if curriculum.score in (None, "none"):
        return [1.0] * rounds
    steps = max(1, rounds - warm_up)
    cap = most_in_use(curriculum)  # what devices find themselves is in "caps"
    paced = [min(cap, part_in_use(curriculum, t, steps)) for t in range(steps)]
    return ([1.0] * warm_up + paced)[:rounds]


def _densities(devices: list[Device], layout: Layout, layers: list[int]) -> dict[str, float]:
    """Mean over devices of the part of each local layer's entries that trains."""
    result: dict[str, float] = {}
    for layer in range(layout.layers):
        if layer in layers:
            continue
        own = layout.only(p.name for p in layout if p.layer == layer)
        masks = [kept_rows_of(device.state) for device in devices if device.state is not None]
        parts = [mask.entries(own) / own.size for mask in masks if mask.rows]
        result[str(layer)] = float(np.mean(parts)) if parts else 0.0
    return result


def _difficulty(scored: list[Device], site: Site) -> dict[str, Any]:
    """A histogram over all scored examples; eta^2 of the group within devices, weighted by their examples."""
    values = [_kept(device, DIFFICULTY) for device in scored]
    groups = [site.data.train.groups[device.indices] for device in scored]
    shares = [(group_share(v, y), group_share_by_chance(y), len(y)) for v, y in zip(values, groups, strict=True)]
    defined = [(share, chance, n) for share, chance, n in shares if share is not None]
    weight = sum(n for *_, n in defined)
    everything = np.concatenate(values)
    histogram = log_histogram(everything) if (everything >= 0).all() else None
    return {
        "examples": len(everything),
        "group_share": sum(s * n for s, _, n in defined) / weight if weight else None,
        "group_share_by_chance": sum(c * n for _, c, n in defined) / weight if weight else None,
        "histogram": None if histogram is None else {"edges": histogram.edges, "counts": histogram.counts},
    }


def _stability(
    scored: list[Device], site: Site, config: Config, state: ServerState, shared: tuple[str, ...]
) -> float | None:
    """Mean Spearman correlation of the ranks at initialization and at the end."""
    received = {name: state.tensors[name] for name in shared}
    found = []
    for device in scored[:_RESCORED]:
        if config.curriculum.refresh:
            before, after = _kept(device, FIRST_DIFFICULTY), _kept(device, DIFFICULTY)
        elif config.curriculum.score in ("fisher", "fisher-model", "loss"):
            rng = stream(config.seed, "scoring order", device.number)
            kind: Any = config.curriculum.score
            job = ScoreJob(device.number, device.model(received), kind, device.indices, rng)
            before, after = _kept(device, DIFFICULTY), site.executor.result(job).scores.difficulty
        else:
            return None
        stability = rank_stability(before, after)
        if stability is not None:
            found.append(stability)
    return float(np.mean(found)) if found else None


def _kept(device: Device, name: str) -> np.ndarray:
    assert device.state is not None
    values: np.ndarray = device.state.memory[name].numpy()
    return values
