"""LoRA as P Lambda Q: AdaLoRA's form, from PEFT."""

import math
import re
from typing import Any

import peft
import torch
from peft.tuners.adalora import AdaLoraLayer
from torch import Tensor

from fibecfed.config import Config
from fibecfed.errors import InputError
from fibecfed.tuning.kind import SavedForm, own_form
from fibecfed.tuning.lora import LoraTuning

_KEPT = ("task_type", "base_model_name_or_path", "target_modules", "exclude_modules", "lora_dropout", "fan_in_fan_out",
         "modules_to_save")  # fmt: skip
_TRIPLET = re.compile(r"\.lora_[ABE]$")


def initial_rank(config: Config) -> int:
    """Triplets of every map at the start. Raises InputError if they are fewer than the rank that is to remain."""
    asked = config.adalora.init_rank
    if asked is None:
        return math.ceil(1.5 * config.lora.rank)
    if asked < config.lora.rank:
        raise InputError(
            f"adalora.init_rank={asked} is below lora.rank={config.lora.rank}, the mean rank that is to remain."
        )
    return asked


class SvdLoraTuning(LoraTuning):
    """Delta W = (alpha / R) P Lambda Q on every map, R triplets at the start (Zhang et al. 2023, section 3.1).

    PEFT names them lora_B (out, R), lora_E (R, 1) and lora_A (R, in); Lambda starts at 0. The rank is never changed
    here: a triplet that is 0 is pruned.
    """

    name = "svd-lora"
    reloads = False

    def _settings(self, config: Config, **common: Any) -> peft.LoraConfig:
        # PEFT's own budget schedule is never run: the server decides.
        return peft.AdaLoraConfig(init_r=initial_rank(config), target_r=config.lora.rank, total_step=1, **common)

    def saved_form(self, model: Any) -> SavedForm:
        """An ordinary LoRA adapter with the same logits: each map of its own rank, Lambda and scale inside B."""
        form = own_form(model)
        tensors = {name: t for name, t in form.tensors.items() if not _TRIPLET.search(name)}
        ranks: dict[str, int] = {}
        for name, layer in model.backbone.named_modules():
            if isinstance(layer, AdaLoraLayer):
                a, b = merged(layer)
                tensors |= {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}
                ranks[name.removeprefix("base_model.model.")] = len(a)
        given: Any = form.settings
        kept = {key: getattr(given, key) for key in _KEPT}
        # alpha = rank, map by map: the scale is 1.
        settings = peft.LoraConfig(r=1, lora_alpha=1, rank_pattern=ranks, alpha_pattern=dict(ranks), **kept)
        return SavedForm(tensors, settings)


def merged(layer: Any) -> tuple[Tensor, Tensor]:
    """A (k, in) and B (out, k) with B A the layer's Delta W, k its triplets that are not 0 (one of zeros if none)."""
    a, b, e = (getattr(layer, f"lora_{part}")["default"].detach() for part in "ABE")
    kept = torch.flatten(e) != 0
    if not kept.any():
        kept[0] = True
    scale = layer.scaling["default"] / (layer.ranknum["default"].detach() + 1e-5)  # as PEFT's forward has it
    return a[kept].clone(), b[:, kept] * e[kept].T * scale
