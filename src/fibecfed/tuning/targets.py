"""Which linear maps of an architecture LoRA goes on."""

from collections.abc import Sequence
from typing import Any

from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import nn
from transformers.pytorch_utils import Conv1D

from fibecfed.errors import InputError
from fibecfed.models import blocks, blocks_path, layer_of

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

# Maps whose weight a fused kernel reads past the module, so that PEFT puts no LoRA on them.
_FUSED = dict.fromkeys(("mamba", "mamba2", "falcon_mamba", "falcon_h1", "nemotron_h"), "out_proj")


def linear_maps(backbone: Any) -> dict[str, nn.Module]:
    """The linear maps inside the transformer layers that can carry LoRA, by dotted name within the stack
    (``0.attention.query``).
    """
    stack = blocks(backbone, backbone.config).named_modules()
    fused = _FUSED.get(backbone.config.model_type)
    return {
        name: module
        for name, module in stack
        if isinstance(module, nn.Linear | Conv1D) and (fused is None or not named_by(name, [fused]))
    }


def linear_names(backbone: Any) -> list[str]:
    """Distinct last names of the linear maps inside the transformer layers."""
    return list(dict.fromkeys(name.rsplit(".", 1)[-1] for name in linear_maps(backbone)))


def named_by(name: str, targets: Sequence[str]) -> bool:
    """Whether PEFT takes a module for one of the targets: its dotted name is one, or ends with one."""
    return any(name == target or name.endswith(f".{target}") for target in targets)


def outside_layers(backbone: Any, targets: Sequence[str]) -> list[str]:
    """Modules above or below the transformer layers that the targets' names would also catch, such as a pooler."""
    path = blocks_path(backbone, backbone.config)
    return [
        name for name, _ in backbone.named_modules() if named_by(name, targets) and layer_of(f"{name}.", path) is None
    ]


def lora_targets(backbone: Any, wanted: str | Sequence[str]) -> list[str]:
    """Module names for PEFT's ``target_modules``.

    "auto": query and value as PEFT lists them for the model type, else by their usual names;
    "all-linear": every linear map in the layers; a list: those endings of names, which must exist.
    Raises InputError naming the linear maps that there are.
    """
    present = linear_names(backbone)
    if wanted == "all-linear":
        return present
    if wanted == "auto":
        listed = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(backbone.config.model_type, ())
        fused = _FUSED.get(backbone.config.model_type)
        for names in (tuple(name for name in listed if name != fused), *_QUERY_VALUE):
            if names and set(names) <= set(present):
                return list(names)
        raise InputError(
            f"lora.targets=auto knows no query and value maps in this model; choose from {', '.join(present)}."
        )
    chosen = [wanted] if isinstance(wanted, str) else list(wanted)
    maps = linear_maps(backbone)
    unknown = [target for target in chosen if not any(named_by(name, [target]) for name in maps)]
    if unknown or not chosen:
        fused = _FUSED.get(backbone.config.model_type)
        why = f" (PEFT puts no LoRA on {fused} of a {backbone.config.model_type})" if fused in unknown else ""
        raise InputError(
            f"lora.targets names {unknown or 'nothing'}; the model's linear maps are {', '.join(present)}{why}."
        )
    return chosen
