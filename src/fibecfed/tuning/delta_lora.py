"""LoRA whose weight moves along: Delta-LoRA as a model."""

import copy
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from fibecfed.config import Config
from fibecfed.errors import InputError
from fibecfed.models import Pretrained
from fibecfed.tuning.kind import SavedForm, own_form
from fibecfed.tuning.lora import LoraTuning

ROLES = ("anchor_A", "anchor_B", "ratio")


class WeightMove(nn.Module):
    """The move of one weight: W - W_0 = ratio (alpha/r) (B A - B_0 A_0), a constant to the gradient.

    Each step of Delta-LoRA adds ratio (alpha/r) (B' A' - B A) to W; the sum of those is the difference of the last
    and the first product, so W need not be written. A_0, B_0 are LoRA's values when W began to move, ratio (1,) is
    lambda from then on and 0 before.
    """

    def __init__(self, layer: Any, ratio: float) -> None:
        super().__init__()
        self._layer = (layer,)  # its parent: in a tuple, or it would be registered as a child
        self.anchor_A = nn.Parameter(layer.lora_A["default"].weight.detach().clone())  # (r, in)
        self.anchor_B = nn.Parameter(layer.lora_B["default"].weight.detach().clone())  # (out, r)
        self.ratio = nn.Parameter(torch.full((1,), ratio))

    def forward(self, x: Tensor) -> Tensor:
        """(..., out) what the move adds to the map's output for x (..., in)."""
        (layer,) = self._layer
        a, b = layer.lora_A["default"].weight.detach(), layer.lora_B["default"].weight.detach()
        x = x.to(a.dtype)
        moved = x @ a.T @ b.T - x @ self.anchor_A.T @ self.anchor_B.T
        return self.ratio.detach() * layer.scaling["default"] * moved


class DeltaLoraTuning(LoraTuning):
    """LoRA with a ``WeightMove`` on every map; its parameters have the roles ``ROLES`` and are never trained."""

    name = "delta-lora"
    reloads = False

    def attach(self, pretrained: Pretrained, outputs: int, config: Config, seed: int) -> nn.Module:
        """The LoRA model; without a ratio it is nothing else."""
        model = super().attach(pretrained, outputs, config, seed)
        if config.delta.ratio:
            for layer in [module for module in model.modules() if isinstance(module, LoraLayer)]:
                layer.move = WeightMove(layer, 0.0 if delta_start(config) else config.delta.ratio)
                layer.register_forward_hook(_add_move)
        return model

    def role(self, name: str, layer: int | None) -> str:
        return next((role for role in ROLES if name.endswith(f".move.{role}")), super().role(name, layer))

    def saved_form(self, model: Any) -> SavedForm:
        """An ordinary LoRA adapter of rank 2r with the same logits.

        W_0 + s B A + ratio s (B A - B_0 A_0) = W_0 + s [(1 + ratio) B, -ratio B_0] [A; A_0], s = alpha/r = 2 alpha/2r.
        """
        form = own_form(model)
        tensors = {name: t for name, t in form.tensors.items() if ".move." not in name}
        settings = copy.copy(form.settings)
        moves = [(n, m) for n, m in model.backbone.named_modules() if isinstance(m, WeightMove)]
        for name, move in moves:
            ratio = float(move.ratio)
            a, b = (name.removesuffix(".move") + f".lora_{side}.weight" for side in "AB")
            tensors[a] = torch.cat([tensors[a], move.anchor_A], dim=0)
            tensors[b] = torch.cat([(1 + ratio) * tensors[b], -ratio * move.anchor_B], dim=1)
        if moves:
            settings.r, settings.lora_alpha = 2 * settings.r, 2 * settings.lora_alpha
        return SavedForm(tensors, settings)


def delta_start(config: Config) -> int:
    """Rounds of plain LoRA before the weights move. Raises InputError where they would never move."""
    rounds = config.federation.rounds
    if config.delta.start is None:
        return rounds // 10
    if config.delta.start >= rounds:
        raise InputError(f"delta.start={config.delta.start} is past the last round (federation.rounds={rounds}).")
    return config.delta.start


def _add_move(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    move: Any = layer.move
    return output + move(inputs[0]).to(output.dtype)
