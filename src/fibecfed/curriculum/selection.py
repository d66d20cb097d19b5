"""What a configuration's curriculum lets a device train on in one round."""

import numpy as np

from fibecfed.config import CurriculumConfig
from fibecfed.curriculum.order import (
    Selection,
    batches_easy_first,
    draw,
    easy_first,
    importance_sample,
    random_subset,
)
from fibecfed.curriculum.pacing import START, capped_size, prefix_fraction, prefix_size
from fibecfed.seeding import stream


def part_in_use(config: CurriculumConfig, step: int, steps: int) -> float:
    """c(t): the part of its data that a device trains on, or draws from, before any cap."""
    if config.pacing == "competence":
        return prefix_fraction("sqrt", step, steps, config.competence, config.full_at)
    return prefix_fraction(config.pacing or "linear", step, steps, config.start or START, config.full_at)


def most_in_use(config: CurriculumConfig) -> float:
    """The cap that is set; 1 where there is none, or each device finds its own."""
    return 1.0 if config.cap is None or config.cap == "auto" else config.cap


def select(
    config: CurriculumConfig,
    difficulty: np.ndarray,
    groups: np.ndarray,
    *,
    step: int,
    steps: int,
    batch_size: int,
    seed: int,
    device: int,
    doubtful: np.ndarray | None = None,
) -> Selection:
    """The examples of curriculum round ``step`` (from 0) of ``steps``.

    ``difficulty`` and ``groups`` (n,) of the device's own examples. Those that are ``doubtful`` (n,) take no part.
    Source: docs/method.md section 4.
    """
    whole, cap = len(difficulty), most_in_use(config)
    kept = np.arange(whole) if doubtful is None else np.flatnonzero(~doubtful)
    difficulty, groups = difficulty[kept], groups[kept]
    examples = len(difficulty)
    stratified = config.stratified is not False
    fraction = part_in_use(config, step, steps)
    count = min(examples, prefix_size(fraction, whole))
    if config.pacing == "competence":
        pool = easy_first(difficulty, groups, stratified).prefix(count, cap)
        paced = prefix_fraction("linear", step, steps, config.start or START, config.full_at)
        count = min(examples, prefix_size(paced, whole))
        found = draw(pool.positions, count, stream(seed, "competence", step, device))
    elif config.fresh:
        count = min(count, capped_size(cap, examples))
        found = random_subset(groups, count, stream(seed, "random subset", step, device), stratified)
    elif config.importance and fraction >= 1:
        most = capped_size(cap, examples)
        easy = easy_first(difficulty, groups, stratified).prefix(most).positions
        drawn = importance_sample(difficulty[easy], most, stream(seed, "importance", step, device))
        found = Selection(easy[drawn.positions], drawn.weights)
    else:
        if config.unit == "batch":
            order = batches_easy_first(difficulty, batch_size, stream(seed, "curriculum batches", device))
        else:
            order = easy_first(difficulty, groups, stratified)
        found = order.prefix(count, cap)
        if config.cap == "auto":
            # A device which leaves nothing out trains as one without a curriculum, to the bit; training shuffles them.
            found = Selection(np.sort(found.positions))
    return Selection(kept[found.positions], found.weights)
