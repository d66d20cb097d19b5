"""LoRA on weights that a sparse change may be added to: the two stages of SLoRA in one model."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers.pytorch_utils import Conv1D

from fibecfed.config import Config
from fibecfed.errors import InputError
from fibecfed.models import Pretrained
from fibecfed.seeding import stream
from fibecfed.tuning.kind import SavedForm, own_form
from fibecfed.tuning.layout import Layout
from fibecfed.tuning.lora import LoraTuning

_VALUES = ".base_layer.parametrizations.weight.0.values"


def sparse_rounds(config: Config) -> int:
    """Rounds of sparse tuning. Raises InputError where they would leave none for LoRA."""
    rounds = config.federation.rounds
    if config.sparse.rounds is None:
        return min(max(1, rounds // 5), rounds - 1)
    if config.sparse.rounds >= rounds:
        raise InputError(
            f"sparse.rounds={config.sparse.rounds} leaves no round for LoRA (federation.rounds={rounds}); lower it."
        )
    return config.sparse.rounds


class SparseChange(nn.Module):
    """W -> W + values at fixed positions of W's entries; with all values 0 the weight itself, to the last bit."""

    positions: Tensor

    def __init__(self, positions: Tensor) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.zeros(len(positions), device=positions.device))
        self.register_buffer("positions", positions, persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        if not self.values.requires_grad and not self.values.any():
            return weight  # the second stage, which then costs nothing more than LoRA
        flat = weight.reshape(-1).index_add(0, self.positions, self.values.to(weight.dtype))
        return flat.view(weight.shape)


class SparseLoraTuning(LoraTuning):
    """LoRA, and while there are rounds of sparse tuning ``values`` (k,) of role "sparse" on every map it sits on.

    The backbone's own weights are never written.
    """

    name = "sparse-lora"

    def attach(self, pretrained: Pretrained, outputs: int, config: Config, seed: int) -> nn.Module:
        """The LoRA model; the positions come from the run's seed, so that every party has the same."""
        model = super().attach(pretrained, outputs, config, seed)
        if not sparse_rounds(config):
            return model
        layers = (module for module in model.modules() if isinstance(module, LoraLayer))
        for number, layer in enumerate(layers):
            base: Any = layer.get_base_layer()
            transposed = isinstance(base, Conv1D)
            out_in = tuple(base.weight.shape)[:: -1 if transposed else 1]
            positions = sparse_positions(config.seed, number, out_in, config.sparse.density)
            if transposed:
                positions = positions % out_in[1] * out_in[0] + positions // out_in[1]
            places = torch.from_numpy(positions).to(base.weight.device)
            parametrize.register_parametrization(base, "weight", SparseChange(places))
        return model

    def role(self, name: str, layer: int | None) -> str:
        return "sparse" if name.endswith(_VALUES) else super().role(name, layer)

    def saved_form(self, model: Any) -> SavedForm:
        """The LoRA adapter. Of a run that was stopped before LoRA took over: what would have taken over."""
        form = own_form(model)
        tensors = dict(form.tensors)
        for name, layer in model.backbone.named_modules():
            if isinstance(layer, LoraLayer) and parametrize.is_parametrized(layer.get_base_layer()):
                base: Any = layer.get_base_layer()
                change = (base.weight - base.parametrizations.weight.original).detach()
                if change.any():
                    if isinstance(base, Conv1D):
                        change = change.T
                    pair = low_rank(change, layer.r["default"], layer.scaling["default"])
                    for side, factor in zip("AB", pair, strict=True):
                        key = f"{name}.lora_{side}.weight"
                        tensors[key] = factor.to(tensors[key])
        return SavedForm(tensors, form.settings)


def sparse_positions(seed: int, number: int, shape: tuple[int, ...], density: float) -> np.ndarray:
    """(k,) ascending int64 positions in a weight (out, in) read by rows, k = density x out x in, at least 1.

    ``number`` counts the weights in the order of the model. Source: Babakniya et al. 2023: one random
    mask of uniform density, from a seed that all share.
    """
    size = shape[0] * shape[1]
    drawn = stream(seed, "sparse positions", number).choice(size, max(1, round(density * size)), replace=False)
    return np.sort(drawn)


def low_rank(change: Tensor, rank: int, scale: float) -> tuple[Tensor, Tensor]:
    """A (r, in) and B (out, r) with scale B A the best approximation of rank r of a ``change`` (out, in).

    The singular values are split evenly. Source: Babakniya et al. 2023; the division by LoRA's
    scale = alpha / r, without which the change would come back alpha / r times as large, is a project decision.
    """
    if not change.any():  # such a factoring is zero, and takes seconds to find
        return change.new_zeros(rank, change.shape[1]).double(), change.new_zeros(change.shape[0], rank).double()
    u, s, vt = torch.linalg.svd(change.double() / scale, full_matrices=False)
    kept = min(rank, len(s))
    root = s[:kept].sqrt()
    a, b = change.new_zeros(rank, change.shape[1]).double(), change.new_zeros(change.shape[0], rank).double()
    a[:kept], b[:, :kept] = root[:, None] * vt[:kept], u[:, :kept] * root
    return a, b


def taken_over(tensors: Mapping[str, Tensor], layout: Layout, config: Config) -> tuple[dict[str, Tensor], float | None]:
    """The model in which LoRA has taken over the sparse change, and the part of its square norm that LoRA kept.

    The sparse values become 0, so that the backbone is what it was. None where nothing had changed.
    """
    result, changed, lost = dict(tensors), 0.0, 0.0
    scale = config.lora.alpha / config.lora.rank
    for number, values in enumerate(p for p in layout if p.role == "sparse"):
        names = [values.name.replace(_VALUES, f".lora_{side}.default.weight") for side in "AB"]
        a, b = (tensors[name] for name in names)
        shape = (b.shape[0], a.shape[1])
        positions = torch.from_numpy(sparse_positions(config.seed, number, shape, config.sparse.density))
        change = torch.zeros(shape[0] * shape[1], dtype=torch.float64)
        change[positions] = tensors[values.name].double()
        factors = low_rank(change.view(shape), len(a), scale)
        changed += float(change.square().sum())
        lost += float((change.view(shape) - scale * factors[1] @ factors[0]).square().sum())
        result |= {name: f.to(a.dtype).contiguous() for name, f in zip(names, factors, strict=True)}
        result[values.name] = torch.zeros_like(tensors[values.name])
    return result, 1 - lost / changed if changed else None
