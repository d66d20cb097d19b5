"""What the LoRA of a layer is worth: the loss without it."""

from collections.abc import Callable, Collection, Mapping

import numpy as np
import torch
from torch import Tensor

from fibecfed.errors import InputError
from fibecfed.tuning.layout import Layout


def keep_layers(tensors: Mapping[str, Tensor], layout: Layout, kept: Collection[int]) -> dict[str, Tensor]:
    """The tensors with the LoRA of all layers but ``kept`` reset: B = 0, so that the pair changes nothing.

    A stays, and so does what lies outside the layers (the head). New tensors where reset, the given ones elsewhere.
    Raises InputError for a layer whose parameters are no LoRA pairs.
    """
    result = dict(tensors)
    for layer in set(range(layout.layers)) - set(kept):
        pairs = [p for p in layout if p.layer == layer and p.role == "lora_B"]
        if not pairs and any(p.layer == layer for p in layout):
            raise InputError(f"Layer {layer} has no LoRA to reset; choose another way to count or choose layers.")
        for p in pairs:
            result[p.name] = torch.zeros_like(tensors[p.name])
    return result


def reset_losses(loss_with: Callable[[frozenset[int]], float], layers: int) -> np.ndarray:
    """(L,) float64: the held-out loss when the LoRA of that layer alone is reset; the larger, the more it is needed.

    ``loss_with(kept)`` is the loss with the LoRA of all other layers reset, as for ``functional_count``.
    Source: project decision (docs/method.md section 5 [D]).
    """
    everything = frozenset(range(layers))
    return np.array([loss_with(everything - {layer}) for layer in range(layers)], dtype=np.float64)
