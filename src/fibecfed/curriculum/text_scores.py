"""Difficulty scores that need no model. Higher is harder."""

import numpy as np

from fibecfed.data import TokenizedSet


def length(data: TokenizedSet, indices: np.ndarray) -> np.ndarray:
    """(n,) float64: tokens of each example, special tokens included, after cutting to the maximum length."""
    return data.lengths[indices].astype(np.float64)


def rarity(data: TokenizedSet, indices: np.ndarray) -> np.ndarray:
    """(n,) float64: -sum log p(token) over each example's tokens, in nats.

    p counts the tokens of these examples only: a device's text may not leave it. Special tokens count like any
    other; every example has the same ones.
    Source: sentence rarity, Platanios et al. 2019, section 3.1; counts per device are a project decision.
    """
    lengths = data.lengths[indices]
    owner = np.repeat(np.arange(len(indices)), lengths)
    within = np.arange(len(owner)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    tokens = data.ids[data.offsets[indices][owner] + within]
    _, place, counts = np.unique(tokens, return_inverse=True, return_counts=True)
    surprise = -np.log(counts / max(1, len(tokens)))
    return np.bincount(owner, weights=surprise[place], minlength=len(indices))
