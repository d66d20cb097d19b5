"""What a configuration's curriculum lets a device train on in one round."""

import numpy as np

from fibecfed.config import CurriculumConfig
from fibecfed.curriculum.order import Selection, batches_easy_first, easy_first, importance_sample, random_subset
from fibecfed.curriculum.pacing import capped_size, prefix_fraction, prefix_size
from fibecfed.seeding import stream


def select(
    config: CurriculumConfig,
    difficulty: np.ndarray,
    labels: np.ndarray,
    *,
    step: int,
    steps: int,
    batch_size: int,
    seed: int,
    device: int,
) -> Selection:
    """The examples of curriculum round ``step`` (from 0) of ``steps``.

    ``difficulty`` and ``labels`` (n,) of the device's own examples. Source: METHOD.md section 4.
    """
    examples = len(difficulty)
    fraction = prefix_fraction(config.pacing, step, steps, config.start, config.full_at)
    count = prefix_size(fraction, examples)
    if config.fresh:
        count = min(count, capped_size(config.cap, examples))
        return random_subset(labels, count, stream(seed, "random subset", step, device), config.stratified)
    if config.importance and fraction >= 1:
        kept = capped_size(config.cap, examples)
        easy = easy_first(difficulty, labels, config.stratified).prefix(kept).positions
        drawn = importance_sample(difficulty[easy], kept, stream(seed, "importance", step, device))
        return Selection(easy[drawn.positions], drawn.weights)
    if config.unit == "batch":
        order = batches_easy_first(difficulty, batch_size, stream(seed, "curriculum batches", device))
    else:
        order = easy_first(difficulty, labels, config.stratified)
    return order.prefix(count, config.cap)
