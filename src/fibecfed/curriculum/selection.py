"""What a configuration's curriculum lets a device train on in one round."""

import numpy as np

from fibecfed.config import CurriculumConfig
from fibecfed.curriculum.clean_part import clean_part
from fibecfed.curriculum.order import Selection, batches_easy_first, draw, easy_first, importance_sample, random_subset
from fibecfed.curriculum.pacing import START, capped_size, prefix_fraction, prefix_size
from fibecfed.seeding import stream


def part_in_use(config: CurriculumConfig, step: int, steps: int) -> float:
    """c(t): the part of its data that a device trains on, or draws from, before any cap."""
    if config.pacing == "competence":
        return prefix_fraction("sqrt", step, steps, config.competence, config.full_at)
    return prefix_fraction(config.pacing or "linear", step, steps, config.start or START, config.full_at)


def cap_of(config: CurriculumConfig, difficulty: np.ndarray) -> float:
    """The most of a device's data ever used; ``difficulty`` (n,) of its examples decides where the cap is auto."""
    return clean_part(difficulty) if config.cap == "auto" else config.cap or 1.0


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
) -> Selection:
    """The examples of curriculum round ``step`` (from 0) of ``steps``.

    ``difficulty`` and ``groups`` (n,) of the device's own examples. Source: docs/method.md section 4.
    """
    examples, cap = len(difficulty), cap_of(config, difficulty)
    stratified = config.stratified is not False
    fraction = part_in_use(config, step, steps)
    count = prefix_size(fraction, examples)
    if config.pacing == "competence":
        pool = easy_first(difficulty, groups, stratified).prefix(count, cap)
        count = prefix_size(prefix_fraction("linear", step, steps, config.start or START, config.full_at), examples)
        return draw(pool.positions, count, stream(seed, "competence", step, device))
    if config.fresh:
        count = min(count, capped_size(cap, examples))
        return random_subset(groups, count, stream(seed, "random subset", step, device), stratified)
    if config.importance and fraction >= 1:
        kept = capped_size(cap, examples)
        easy = easy_first(difficulty, groups, stratified).prefix(kept).positions
        drawn = importance_sample(difficulty[easy], kept, stream(seed, "importance", step, device))
        return Selection(easy[drawn.positions], drawn.weights)
    if config.unit == "batch":
        order = batches_easy_first(difficulty, batch_size, stream(seed, "curriculum batches", device))
    else:
        order = easy_first(difficulty, groups, stratified)
    return order.prefix(count, cap)
