"""Bottleneck adapters in every transformer layer (Houlsby et al. 2019, section 2.1 and figure 2).

Own code: PEFT has no bottleneck adapter for encoders, and the library `adapters` (1.3.0) pins transformers 4.57,
which excludes the transformers 5 this package needs.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from fibecfed.config import Config
from fibecfed.errors import InputError
from fibecfed.models import CausalModel, NativeClassifier, PooledClassifier, Pretrained, blocks
from fibecfed.tuning.kind import Tuning, in_fp32, keep_own, pooling_of, seeded, train_in_fp32

INITIAL_SPREAD = 1e-2  # of a normal distribution cut at two spreads (Houlsby et al., section 3.6)

# The last linear map of the attention and of the feed-forward in a layer, as architectures call them.
_OUTPUTS = (
    ("attention.output.dense", "output.dense"),  # BERT, RoBERTa, ELECTRA, DeBERTa
    ("attn.Wo", "mlp.Wo"),  # ModernBERT
    ("attention.out_lin", "ffn.lin2"),  # DistilBERT
    ("self_attn.o_proj", "mlp.down_proj"),  # Llama, Qwen, Mistral
    ("attn.c_proj", "mlp.c_proj"),  # GPT-2
    ("self_attn.out_proj", "fc2"),  # OPT
    ("attention.dense", "mlp.dense_4h_to_h"),  # GPT-NeoX
)


class Adapted(nn.Module):
    """A linear map and the adapter on its output h: h + W_up GELU(W_down h + b_down) + b_up.

    W_down (m, d), W_up (d, m): 2 m d + m + d parameters, fp32.
    """

    def __init__(self, layer: nn.Module, hidden: int, width: int) -> None:
        super().__init__()
        self.layer = layer
        self.adapter_down = nn.Linear(hidden, width)
        self.adapter_up = nn.Linear(width, hidden)
        for part in (self.adapter_down, self.adapter_up):
            nn.init.trunc_normal_(part.weight, std=INITIAL_SPREAD, a=-2 * INITIAL_SPREAD, b=2 * INITIAL_SPREAD)
            nn.init.zeros_(part.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        found = self.layer(inputs)
        moved = self.adapter_up(functional.gelu(self.adapter_down(found.float())))
        return found + moved.to(found.dtype)


class BottleneckTuning(Tuning):
    """An adapter on the output of each layer's attention and feed-forward, before the skip connection.

    Trained: the adapters, the layers' own normalisations of width d (LayerNorm or RMSNorm) and a classifier's head.
    """

    name = "adapter"
    sections = ("adapter",)

    def attach(self, pretrained: Pretrained, outputs: int, config: Config, seed: int) -> nn.Module:
        """Raises InputError for an architecture whose sublayers' outputs are not known."""
        backbone: Any = pretrained.backbone
        hidden = pretrained.config.hidden_size
        with seeded(seed):
            for block in blocks(backbone, backbone.config):
                for name in _outputs(block, backbone.config.model_type):
                    parent, _, last = name.rpartition(".")
                    setattr(block.get_submodule(parent), last,
                            Adapted(block.get_submodule(name), hidden, config.adapter.width))  # fmt: skip
                _train_norms(block, hidden, backbone.dtype)
            model: nn.Module
            if pretrained.generates:
                model = CausalModel(backbone)
            elif config.model.head == "native":
                model = NativeClassifier(backbone)
                _train_native_head(backbone, pretrained.head_modules)
            else:
                model = PooledClassifier(backbone, pooling_of(config, pretrained.decoder), hidden, outputs)
        train_in_fp32(model)
        return keep_own(model).eval()

    def role(self, name: str, layer: int | None) -> str:
        if layer is None:
            return "head"
        return next((part for part in ("adapter_down", "adapter_up") if f".{part}." in name), "norm")


def _outputs(block: nn.Module, model_type: str) -> tuple[str, str]:
    present = {name for name, module in block.named_modules() if isinstance(module, nn.Linear | Conv1D)}
    for pair in _OUTPUTS:
        if present.issuperset(pair):
            return pair
    raise InputError(
        f"Where the attention and the feed-forward of a '{model_type}' end is not known, so bottleneck adapters cannot "
        f"be put there; take another model or tuning. Its linear maps: {', '.join(sorted(present))}."
    )


def _train_norms(block: nn.Module, hidden: int, precision: torch.dtype) -> None:
    """The layer's normalisations of the whole hidden vector; not those of single heads."""

    def back(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        return output.to(precision)

    for module in block.modules():
        weight = getattr(module, "weight", None)
        if type(module).__name__.endswith("Norm") and weight is not None and tuple(weight.shape) == (hidden,):
            module.requires_grad_(True)
            if precision != torch.float32:
                module.register_forward_pre_hook(in_fp32)
                module.register_forward_hook(back)


def _train_native_head(backbone: nn.Module, names: tuple[str, ...]) -> None:
    for name in names:
        module = backbone.get_submodule(name)
        module.requires_grad_(True)
        module.register_forward_pre_hook(in_fp32)
