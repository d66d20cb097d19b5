"""LoRA through PEFT: attach, describe, save and load."""

from typing import Any

import peft
import torch
from torch import nn

from fibecfed.config import Config
from fibecfed.models import NativeClassifier, PooledClassifier, Pretrained, blocks_path, layer_of
from fibecfed.tuning.layout import Layout, Parameter
from fibecfed.tuning.targets import lora_targets


def pooling_of(config: Config, decoder: bool) -> str:
    """The pooling that model.pooling=auto stands for."""
    if config.model.pooling != "auto":
        return config.model.pooling
    return "last" if decoder else "mean"


class LoraTuning:
    """LoRA pairs on the chosen linear maps, and the head (Hu et al. 2021)."""

    name = "lora"

    def attach(self, pretrained: Pretrained, classes: int, config: Config, seed: int) -> nn.Module:
        """The model with trainable LoRA and head; everything random comes from ``seed``."""
        settings = config.lora
        native = config.model.head == "native"
        peft_config = peft.LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,  # type: ignore[arg-type]  # PEFT only multiplies by it
            lora_dropout=settings.dropout,
            target_modules=lora_targets(pretrained.backbone, settings.targets),
            task_type=peft.TaskType.SEQ_CLS if native else peft.TaskType.FEATURE_EXTRACTION,
            base_model_name_or_path=pretrained.name,
        )
        if config.training.gradient_checkpointing:
            pretrained.backbone.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})  # type: ignore[operator]
            pretrained.backbone.enable_input_require_grads()  # type: ignore[operator]
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            wrapped = peft.get_peft_model(pretrained.backbone, peft_config)  # type: ignore[arg-type]
            wrapped.peft_config["default"].base_model_name_or_path = pretrained.name
            model: nn.Module
            if native:
                model = NativeClassifier(wrapped)
            else:
                pooling = pooling_of(config, pretrained.decoder)
                model = PooledClassifier(wrapped, pooling, pretrained.config.hidden_size, classes)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        return model.eval()

    def layout(self, model: nn.Module, config: Any) -> Layout:
        """Trainable parameters in the order of the model; ``config`` is the Hugging Face configuration."""
        path = blocks_path(model, config)
        parameters = tuple(
            Parameter(name, tuple(p.shape), layer_of(name, path), _role(name))
            for name, p in model.named_parameters()
            if p.requires_grad
        )
        return Layout(parameters, config.num_hidden_layers)


def _role(name: str) -> str:
    for role in ("lora_A", "lora_B"):
        if f".{role}." in name:
            return role
    return "head"
