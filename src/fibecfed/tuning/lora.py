"""LoRA through PEFT: attach, describe, save and load."""

import warnings
from pathlib import Path
from typing import Any

import peft
import torch
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from fibecfed.config import Config
from fibecfed.errors import InputError
from fibecfed.models import NativeClassifier, PooledClassifier, Pretrained, blocks_path, layer_of
from fibecfed.tuning.adapter_files import PeftForm, own_form
from fibecfed.tuning.layout import Layout, Parameter
from fibecfed.tuning.targets import linear_maps, lora_targets, named_by, outside_layers

_SAVED_BY_PEFT = ("classifier", "score")  # PEFT adds these to modules_to_save by itself


def pooling_of(config: Config, decoder: bool) -> str:
    """The pooling that model.pooling=auto stands for. Raises InputError for cls on a decoder."""
    if config.model.pooling == "cls" and decoder:
        raise InputError(
            "model.pooling=cls reads the first token, which in a decoder sees no other token; use last or mean."
        )
    if config.model.pooling != "auto":
        return config.model.pooling
    return "last" if decoder else "mean"


class LoraTuning:
    """LoRA pairs on the chosen linear maps, and the head (Hu et al. 2021)."""

    name = "lora"
    reloads = True

    def peft_form(self, model: Any) -> PeftForm:
        """The PEFT adapter as it is."""
        return own_form(model)

    def _settings(self, config: Config, **common: Any) -> peft.LoraConfig:
        return peft.LoraConfig(r=config.lora.rank, **common)

    def attach(self, pretrained: Pretrained, classes: int, config: Config, seed: int) -> nn.Module:
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
            task_type=peft.TaskType.SEQ_CLS if native else peft.TaskType.FEATURE_EXTRACTION,
            base_model_name_or_path=pretrained.name,
        )
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            # PEFT asks transformers by an old name; the executor checkpoints by itself.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            # An adapter names its base by the name a user can load, not by the folder it was read from.
            warnings.filterwarnings("ignore", "The PEFT config's `base_model_name_or_path`", UserWarning)
            torch.manual_seed(seed)
            wrapped = peft.get_peft_model(backbone, peft_config)
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
        for module in model.modules():
            if isinstance(module, ModulesToSaveWrapper):
                module.register_forward_pre_hook(_in_fp32)
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


class SavedLora(LoraTuning):
    """LoRA of the ranks that an adapter folder was saved with."""

    def __init__(self, folder: Path) -> None:
        self._saved: Any = peft.LoraConfig.from_pretrained(str(folder))

    def _settings(self, config: Config, **common: Any) -> peft.LoraConfig:
        saved = self._saved
        patterns = {"rank_pattern": saved.rank_pattern, "alpha_pattern": saved.alpha_pattern}
        return peft.LoraConfig(r=saved.r, **{**common, "lora_alpha": saved.lora_alpha}, **patterns)


def _in_fp32(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """A native head is trained in fp32, whatever precision the backbone below it has."""
    return tuple(value.float() if isinstance(value, Tensor) else value for value in inputs)


def _role(name: str) -> str:
    for role in ("lora_A", "lora_B", "lora_E"):
        if f".{role}." in name:
            return role
    return "head"
