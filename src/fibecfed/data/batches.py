"""The order in which a device sees its examples."""

from collections.abc import Iterator

import numpy as np

from fibecfed.seeding import stream

_WINDOW = 8  # batches sorted by length together: less padding, still shuffled


def training_batches(
    indices: np.ndarray,
    lengths: np.ndarray,
    batch_size: int,
    *,
    seed: int,
    round: int,
    device: int,
    epochs: int,
    steps: int | None = None,
    exactly: int | None = None,
) -> list[np.ndarray]:
    """Batches of example positions, the same for every method: f(seed, round, device, epoch).

    ``lengths`` gives the tokens of each entry of ``indices``. Examples are shuffled, windows of
    eight batches are sorted by length, and batches are shuffled again. ``steps`` cuts the list.
    ``exactly`` so many batches, whatever the other two say, come from as many epochs as they take.
    Source: docs/method.md section 1; length windows are a project decision.
    """
    batches: list[np.ndarray] = []
    if exactly is not None:
        epochs, steps = -(-exactly // steps_of_epoch(len(indices), batch_size)), exactly
    for epoch in range(epochs):
        rng = stream(seed, "batch order", round, device, epoch)
        order = rng.permutation(len(indices))
        window = batch_size * _WINDOW
        ordered = np.concatenate(
            [
                part[np.argsort(lengths[part], kind="stable")]
                for part in (order[start : start + window] for start in range(0, len(order), window))
            ]
            or [order]
        )
        epoch_batches = [indices[ordered[start : start + batch_size]] for start in range(0, len(ordered), batch_size)]
        batches += [epoch_batches[i] for i in rng.permutation(len(epoch_batches))]
    return batches if steps is None else batches[:steps]


def first_seen(examples: np.ndarray) -> np.ndarray:
    """(n,) bool: whether an entry is the first of its kind."""
    result = np.zeros(len(examples), dtype=bool)
    result[np.unique(examples, return_index=True)[1]] = True
    return result


def steps_of_epoch(examples: int, batch_size: int) -> int:
    """Batches of one pass over so many examples, the last of which may be smaller."""
    return max(1, -(-examples // batch_size))


def evaluation_batches(indices: np.ndarray, lengths: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """Positions sorted by length (ties by position), in batches; ``lengths`` as above."""
    order = indices[np.argsort(lengths, kind="stable")]
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]
