"""Which held-out prompts are answered in evaluation, and what the answers of a model come to on one device."""

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from fibecfed.data import TokenizedSet
from fibecfed.federation import Site
from fibecfed.seeding import stream
from fibecfed.tasks import Counts
from fibecfed.training import AnswerJob


def drawn(seed: int, device: int, examples: np.ndarray, most: int) -> np.ndarray:
    """At most so many of a device's examples, ascending; the same wherever the device is and in every evaluation."""
    chosen = stream(seed, "generate", device).permutation(len(examples))[:most]
    return np.sort(examples[chosen])


def to_answer(
    site: Site, model: Mapping[str, Tensor], device: int, data: TokenizedSet, examples: np.ndarray
) -> AnswerJob:
    """The job that has a model answer what is drawn of these examples of a device; without examples Counts of zeros."""
    chosen = drawn(site.config.seed, device, examples, site.config.evaluation.generate_examples)
    return AnswerJob(device, model, data, chosen)


def answered(site: Site, model: Mapping[str, Tensor], device: int, data: TokenizedSet, examples: np.ndarray) -> Counts:
    """Totals of what ``to_answer`` finds."""
    found: Counts = site.executor.result(to_answer(site, model, device, data, examples))
    return found
