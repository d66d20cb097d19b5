"""A frozen base in 4 bits through bitsandbytes, which runs on CUDA alone."""

import importlib.util
from typing import Any

import peft
import torch
from transformers import BitsAndBytesConfig

from fibecfed.commands import extra_install
from fibecfed.config import ModelConfig
from fibecfed.errors import InputError


def loading_settings(config: ModelConfig) -> dict[str, Any]:
    """What ``from_pretrained`` is told of it; nothing where the base is not quantized.

    nf4 with double quantization and arithmetic in bf16 (Dettmers et al. 2023, QLoRA, section 3).
    Raises InputError on a machine without CUDA, and without bitsandbytes.
    """
    if config.quantization == "none":
        return {}
    if not torch.cuda.is_available():
        raise InputError(
            "model.quantization=4bit needs CUDA, and torch finds none here; set model.quantization=none, with "
            "runtime.precision=bf16 to halve the memory."
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise InputError(f"model.quantization=4bit needs the extra of that name: {extra_install('4bit')}")
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return {"quantization_config": settings, "device_map": {"": torch.cuda.current_device()}}


def prepared(config: ModelConfig, backbone: Any) -> Any:
    """The base as PEFT wants it for training: normalisations in fp32. What is not quantized stays as it is.

    Checkpointing is the executor's own.
    """
    if config.quantization == "none":
        return backbone
    return peft.prepare_model_for_kbit_training(backbone, use_gradient_checkpointing=False)
