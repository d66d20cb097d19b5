"""A model while it trains: dropout on, activations recomputed, as configured."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from fibecfed.config import Config


class TrainingMode:
    """Evaluation mode, but LoRA dropout on if asked, and activations of the blocks recomputed if asked.

    The backbone's own dropout stays off: frozen layers then give the same values each time, which caching
    hidden states relies on (project decision). That is why the blocks are checkpointed here: transformers
    does it only for blocks in training mode, and some have dropout of their own.
    """

    def __init__(self, model: nn.Module, stack: list[nn.Module], config: Config) -> None:
        self._dropouts: list[nn.Module] = []
        self._blocks: list[nn.Module] = []
        if config.lora.dropout:
            self._dropouts = [
                m for n, m in model.named_modules() if ".lora_dropout." in n and isinstance(m, nn.Dropout)
            ]
        if config.training.gradient_checkpointing:
            self._blocks = stack

    def __enter__(self) -> None:
        for module in self._dropouts:
            module.training = True
        for block in self._blocks:
            block.forward = _recomputed(block.forward)  # type: ignore[method-assign]

    def __exit__(self, *details: object) -> None:
        for module in self._dropouts:
            module.training = False
        for block in self._blocks:
            del block.forward  # the class's own shows again


def _recomputed(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A block's forward that keeps its inputs only, and runs again in the backward pass with the same dropout."""

    def checkpointed(*inputs: Any, **settings: Any) -> Any:
        return checkpoint(partial(forward, **settings), *inputs, use_reentrant=False)

    return checkpointed
