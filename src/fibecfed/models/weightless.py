"""A language model of its config.json alone: every shape and no weight, for what can be counted before a download."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call
from transformers import AutoModelForCausalLM

from fibecfed.tasks import Batch

_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth")


def lacks_weights(location: str) -> bool:
    """Whether a model's location (``resolve``) is a folder with a config.json and no file of weights."""
    folder = Path(location)
    return (folder / "config.json").is_file() and not any(list(folder.glob(ending)) for ending in _WEIGHTS)


def without_weights(hf_config: Any, dtype: torch.dtype) -> Any:
    """The causal language model of a configuration, on torch's meta device."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(hf_config, dtype=dtype)


def is_weightless(model: nn.Module) -> bool:
    """Whether some parameter has a shape only."""
    return any(parameter.is_meta for parameter in model.parameters())


def with_zeros(model: nn.Module) -> None:
    """Give parameters that train values, all 0, so that they can be sent."""
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.requires_grad and parameter.is_meta:
                setattr(module, name, nn.Parameter(torch.zeros(parameter.shape, dtype=parameter.dtype)))


def activation_bytes(model: Any, examples: int, length: int, running: Callable[[], Any]) -> int:
    """What autograd keeps of a CausalModel's forward pass over (examples, length) tokens, up to the last hidden states.

    Nothing is computed: the pass runs on tensors without values, with attention as torch's fused kernels keep it.
    ``running`` gives a context in which the pass runs, such as one that recomputes activations.
    """
    body = _Body(model)
    kept: dict[int, tuple[int, Tensor]] = {}  # with the tensor, or its place could be used again
    with FakeTensorMode(allow_non_fake_inputs=True), running():  # PEFT keeps the places of its prompt as they are
        named = [*body.named_parameters(remove_duplicate=False), *body.named_buffers(remove_duplicate=False)]
        made = {id(t): t for _, t in named}  # a tied tensor once
        empty = {
            key: torch.empty(t.shape, dtype=t.dtype, requires_grad=isinstance(t, nn.Parameter) and t.requires_grad)
            for key, t in made.items()
        }
        shapes = {name: empty[id(t)] for name, t in named}
        own = {tensor.untyped_storage()._cdata for tensor in shapes.values()}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in own:
                kept[storage._cdata] = (storage.nbytes(), tensor)
            return tensor

        with saved_tensors_hooks(keep, lambda tensor: tensor):
            ids = torch.zeros(examples, length, dtype=torch.int64)
            functional_call(body, shapes, (ids, torch.ones_like(ids)))
    return sum(size for size, _ in kept.values())


class _Body(nn.Module):
    """What is under a language model's head, with the prompts before it; calling it gives the last hidden states."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        hidden: Tensor = self.model.hidden(Batch(ids, mask, ids))
        return hidden
