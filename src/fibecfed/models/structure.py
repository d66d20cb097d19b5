"""Where the transformer layers of a backbone are, for any Hugging Face architecture."""

import re
from typing import Any

from torch import nn

from fibecfed.errors import InputError


def blocks_path(model: nn.Module, config: Any) -> str:
    """Dotted name of the ModuleList that holds the backbone's L transformer layers.

    It is the shallowest ModuleList of exactly ``num_hidden_layers`` entries.
    Raises InputError if there is none (encoder-decoder and convolutional models).
    """
    wanted = getattr(config, "num_hidden_layers", None)
    found = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == wanted and len(list(module.parameters()))
    ]
    if not found:
        raise InputError(
            f"No stack of {wanted} transformer layers found in {type(model).__name__}; "
            "use an encoder such as BERT or a decoder such as Llama."
        )
    return min(found, key=lambda name: (name.count("."), name))


def blocks(model: nn.Module, config: Any) -> nn.ModuleList:
    """The transformer layers, lowest first."""
    return model.get_submodule(blocks_path(model, config))  # type: ignore[return-value]


def layer_of(parameter: str, path: str) -> int | None:
    """The 0-based layer that a parameter's dotted name lies in, None above or below the stack."""
    match = re.search(rf"(?:^|\.){re.escape(path)}\.(\d+)\.", parameter)
    return int(match.group(1)) if match else None
