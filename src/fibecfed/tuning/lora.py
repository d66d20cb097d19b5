"""LoRA through PEFT: attach, describe, save and load."""

from pathlib import Path
from typing import Any

import peft
from peft.utils import ModulesToSaveWrapper
from torch import nn
from transformers.pytorch_utils import Conv1D

from fibecfed.config import Config
from fibecfed.models import CausalModel, NativeClassifier, PooledClassifier, Pretrained
from fibecfed.tuning.kind import Tuning, in_fp32, pooling_of, seeded, task_type, train_in_fp32, with_peft
from fibecfed.tuning.targets import linear_maps, lora_targets, named_by, outside_layers

_SAVED_BY_PEFT = ("classifier", "score")  # PEFT adds these to modules_to_save by itself


class LoraTuning(Tuning):
    """LoRA pairs on the chosen linear maps, and the head (Hu et al. 2021)."""

    name = "lora"
    sections = ("lora",)

    def _settings(self, config: Config, **common: Any) -> peft.LoraConfig:
        return peft.LoraConfig(r=config.lora.rank, **common)

    def attach(self, pretrained: Pretrained, outputs: int, config: Config, seed: int) -> nn.Module:
        """The model with trainable LoRA and head; everything random comes from ``seed``."""
        settings = config.lora
        native = config.model.head == "native"
        backbone: Any = pretrained.backbone
        targets = lora_targets(backbone, settings.targets)
        peft_config = self._settings(
            config,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            target_modules=targets,
            exclude_modules=outside_layers(backbone, targets) or None,
            fan_in_fan_out=any(
                isinstance(module, Conv1D) and named_by(name, targets) for name, module in linear_maps(backbone).items()
            ),
            modules_to_save=[name for name in pretrained.head_modules if name not in _SAVED_BY_PEFT] or None,
            task_type=_task_type(pretrained, native),
            base_model_name_or_path=pretrained.name,
        )
        with seeded(seed):
            wrapped = with_peft(pretrained, peft_config)
            model: nn.Module
            if pretrained.generates:
                model = CausalModel(wrapped)
            elif native:
                model = NativeClassifier(wrapped)
            else:
                pooling = pooling_of(config, pretrained.decoder)
                model = PooledClassifier(wrapped, pooling, pretrained.config.hidden_size, outputs)
        train_in_fp32(model)
        for module in model.modules():
            if isinstance(module, ModulesToSaveWrapper):
                module.register_forward_pre_hook(in_fp32)
        return model.eval()

    def role(self, name: str, layer: int | None) -> str:
        return next((role for role in ("lora_A", "lora_B", "lora_E") if f".{role}." in name), "head")


def _task_type(pretrained: Pretrained, native: bool) -> peft.TaskType:
    return peft.TaskType.SEQ_CLS if native else task_type(pretrained)


class SavedLora(LoraTuning):
    """LoRA of the ranks that an adapter folder was saved with."""

    def __init__(self, folder: Path) -> None:
        self._saved: Any = peft.LoraConfig.from_pretrained(str(folder))

    def _settings(self, config: Config, **common: Any) -> peft.LoraConfig:
        saved = self._saved
        patterns = {"rank_pattern": saved.rank_pattern, "alpha_pattern": saved.alpha_pattern}
        return peft.LoraConfig(r=saved.r, **{**common, "lora_alpha": saved.lora_alpha}, **patterns)
