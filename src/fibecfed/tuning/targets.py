"""Which linear maps of an architecture LoRA goes on."""

from collections.abc import Sequence
from typing import Any

from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import nn
from transformers.pytorch_utils import Conv1D

from fibecfed.errors import InputError
from fibecfed.models import blocks

# Names that attention's query and value (or a fused map holding them) have, for model types PEFT does not list.
_QUERY_VALUE = (
    ("query", "value"),
    ("q_proj", "v_proj"),
    ("query_proj", "value_proj"),
    ("q_lin", "v_lin"),
    ("Wqkv",),
    ("in_proj",),
    ("c_attn",),
    ("query_key_value",),
    ("qkv_proj",),
)


def linear_names(backbone: nn.Module) -> list[str]:
    """Distinct last names of the linear maps inside the transformer layers."""
    found: dict[str, None] = {}
    for name, module in blocks(backbone, backbone.config).named_modules():
        if isinstance(module, nn.Linear | Conv1D):
            found.setdefault(name.rsplit(".", 1)[-1])
    return list(found)


def lora_targets(backbone: Any, wanted: str | Sequence[str]) -> list[str]:
    """Module names for PEFT's ``target_modules``.

    "auto": query and value as PEFT lists them for the model type, else by their usual names;
    "all-linear": every linear map in the layers; a list: those names, which must exist.
    Raises InputError naming the linear maps that there are.
    """
    present = linear_names(backbone)
    if wanted == "all-linear":
        return present
    if wanted == "auto":
        listed = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(backbone.config.model_type, ())
        for names in (tuple(listed), *_QUERY_VALUE):
            if names and set(names) <= set(present):
                return list(names)
        raise InputError(
            f"lora.targets=auto knows no query and value maps in this model; choose from {', '.join(present)}."
        )
    chosen = [wanted] if isinstance(wanted, str) else list(wanted)
    unknown = [name for name in chosen if name not in present]
    if unknown or not chosen:
        raise InputError(
            f"lora.targets names {unknown or 'nothing'}; the model's linear maps are {', '.join(present)}."
        )
    return chosen
