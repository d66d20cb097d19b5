"""What the LoRA of a layer is worth: the loss without it."""

from collections.abc import Collection, Mapping

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
