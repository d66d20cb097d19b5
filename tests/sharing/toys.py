"""Tiny classifiers with LoRA, built from configurations, and batches of random tokens."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import peft
import torch
from torch import nn
from transformers import AutoModel, BertConfig, GPT2Config, LlamaConfig, PretrainedConfig

from fibecfed.models import PooledClassifier
from fibecfed.tasks import Batch, Classification
from fibecfed.tuning import Layout, LoraTuning, Parameter

VOCABULARY = 30
WIDTH = 8
TASK = Classification(("a", "b", "c"))
KINDS = ("bert", "llama", "gpt2")
_TARGETS = {"bert": ["query", "value"], "llama": ["q_proj", "v_proj"], "gpt2": ["c_attn"]}


def _config(kind: str, layers: int) -> PretrainedConfig:
    sizes = {"vocab_size": VOCABULARY, "num_hidden_layers": layers, "hidden_size": WIDTH, "num_attention_heads": 2}
    more = {"intermediate_size": 16, "max_position_embeddings": 32, "pad_token_id": 0}
    if kind == "bert":
        return BertConfig(**sizes, **more)
    if kind == "llama":
        return LlamaConfig(**sizes, **more, num_key_value_heads=1, bos_token_id=1, eos_token_id=2)
    return GPT2Config(**sizes, n_positions=32, bos_token_id=1, eos_token_id=2)


def classifier(
    kind: str, layers: int = 2, rank: int = 1, attention: str = "sdpa", spread: float = 0.3
) -> tuple[Any, Layout]:
    """A random ``bert``, ``llama`` or ``gpt2``, LoRA's B drawn with standard deviation ``spread``, and its layout."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = AutoModel.from_config(_config(kind, layers), attn_implementation=attention)
        backbone.config.use_cache = False
        lora = peft.LoraConfig(r=rank, target_modules=_TARGETS[kind], fan_in_fan_out=kind == "gpt2")
        model = PooledClassifier(peft.get_peft_model(backbone, lora), "mean", WIDTH, TASK.outputs)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_(std=spread)
            elif parameter.ndim == 2 and not parameter.requires_grad:
                parameter.data.normal_(std=0.3)  # the usual 0.02 leaves so small a model nearly constant
    return model, LoraTuning().layout(model, backbone.config)


def lora_names(layout: Layout) -> tuple[str, ...]:
    """The LoRA parameters, without the head."""
    return tuple(p.name for p in layout if p.layer is not None)


def tokens(lengths: Sequence[int], width: int | None = None, seed: int = 0) -> Batch:
    """Random examples of these lengths, padded to ``width``; the same tokens whatever the width."""
    generator = torch.Generator().manual_seed(seed)
    width = width or max(lengths)
    ids, mask = torch.zeros(len(lengths), width, dtype=torch.int64), torch.zeros(len(lengths), width, dtype=torch.int64)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.randint(3, VOCABULARY, (length,), generator=generator)
        mask[row, :length] = 1
    return Batch(ids, mask, torch.randint(0, TASK.outputs, (len(lengths),), generator=generator))


def pairs(layers: int, rank: int = 2, width: int = 3) -> Layout:
    """A hand-made layout: one LoRA pair a layer, then a head."""
    parameters = []
    for layer in range(layers):
        parameters.append(Parameter(f"{layer}.A", (rank, width), layer, "lora_A"))
        parameters.append(Parameter(f"{layer}.B", (width, rank), layer, "lora_B"))
    return Layout((*parameters, Parameter("head", (2, width), None, "head")), layers)


def frozen_state(model: nn.Module) -> dict[str, tuple[bytes, bool, bool]]:
    """What must not change: the bytes of every parameter, its requires_grad, and whether it has a gradient."""
    return {
        name: (p.detach().numpy().tobytes(), p.requires_grad, p.grad is not None)
        for name, p in model.named_parameters()
    }


def dense_hessian(matvec: Callable[[np.ndarray], np.ndarray], dim: int) -> np.ndarray:
    """(d, d): one product a column, made symmetric."""
    columns = np.stack([matvec(unit) for unit in np.eye(dim)], axis=1)
    return (columns + columns.T) / 2


def dense_gap_count(eigenvalues: np.ndarray, lipschitz: float) -> int | None:
    """The first m with lambda_{m+1} - lambda_m > 4 ``lipschitz``, from all eigenvalues."""
    wide = np.flatnonzero(np.diff(eigenvalues) > 4 * lipschitz)
    return int(wide[0]) + 1 if len(wide) else None
