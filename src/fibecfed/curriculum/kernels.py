"""Each example's squared gradient norm from one batched pass: one kernel per layer type.

For a linear map with input a (B, T, i) and output gradient g (B, T, o), the weight gradient of one example is
sum_t g_t a_t^T. So its norm needs no backward pass of its own (Goodfellow 2015; docs/method.md section 3).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from fibecfed.errors import InputError

# (module, the parameter's name in it, inputs (B, T, i), output gradients (B, T, o))
# -> squared gradient norm of each example (B,), and the sum of the examples' gradients.
Kernel = Callable[[nn.Module, str, Tensor, Tensor], tuple[Tensor, Tensor]]
Use = tuple[Tensor, Tensor]  # inputs and output gradients of one call of a module

_KERNELS: dict[str, Kernel] = {}  # by the type's full name, so that no model's code is loaded for it


class NotByExample(InputError):
    """A layer's input or output has no axis of examples, so its gradient cannot be split in a batch of several."""


# Writing and squaring one entry of a materialised gradient takes about as long as this many multiplications of a
# matrix product. Measured on one CPU core: 3 to 4 for 8 x 384 and 8 x 1536 maps, above 12 for 384 x 384.
_ENTRY_COST = 8
_MOST_ENTRIES = 2**24  # entries of per-example gradients held at once: 64 MiB in fp32


def register_kernel(*types: type[nn.Module] | str) -> Callable[[Kernel], Kernel]:
    """Give layer types (or full names of types) their kernel.

    Only the exact type matches: a subclass may compute something else.
    """

    def keep(kernel: Kernel) -> Kernel:
        _KERNELS.update({kind if isinstance(kind, str) else _full_name(kind): kernel for kind in types})
        return kernel

    return keep


def _full_name(kind: type[nn.Module]) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


@register_kernel(nn.Linear, Conv1D)
def _linear(module: nn.Module, name: str, inputs: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
    if name == "bias":
        each = gradients.sum(dim=1)
        return _squares(each), each.sum(dim=0)
    # The narrow side first: LoRA's maps are skinny, and a product with the long side first takes four times as long.
    narrow, wide = (inputs, gradients) if inputs.shape[2] < gradients.shape[2] else (gradients, inputs)
    examples, positions, height = narrow.shape
    width = wide.shape[2]
    if positions**2 * (height + width) < _ENTRY_COST * height * width:
        # sum over pairs of positions: (g_t . g_t') (a_t . a_t')
        squares = ((narrow @ narrow.mT) * (wide @ wide.mT)).sum(dim=(1, 2)).clamp_min(0)
        total = narrow.flatten(0, 1).mT @ wide.flatten(0, 1)
    else:
        squares, total = narrow.new_empty(examples), narrow.new_zeros(height, width)
        step = max(1, _MOST_ENTRIES // (height * width))
        for part in (slice(start, start + step) for start in range(0, examples, step)):
            each = narrow[part].mT @ wide[part]
            squares[part] = _squares(each)
            total += each.sum(dim=0)
    # Conv1D stores its weight as (in, out), Linear as (out, in).
    stored = (narrow is inputs) == isinstance(module, Conv1D)
    return squares, total if stored else total.mT.contiguous()


@register_kernel(nn.Embedding)
def _embedding(module: nn.Module, name: str, inputs: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
    assert isinstance(module, nn.Embedding)
    if module.max_norm is not None or module.scale_grad_by_freq:
        raise InputError("Fisher scores do not support embeddings with max_norm or scale_grad_by_freq.")
    ids = inputs.squeeze(2)
    if module.padding_idx is not None:
        gradients = gradients * (ids != module.padding_idx).unsqueeze(2)
    # Rows of different tokens are different parameters, so only pairs of equal tokens meet.
    same = (ids.unsqueeze(1) == ids.unsqueeze(2)).to(gradients.dtype)
    total = gradients.new_zeros(module.weight.shape).index_add_(0, ids.flatten(), gradients.flatten(0, 1))
    return ((gradients @ gradients.mT) * same).sum(dim=(1, 2)).clamp_min(0), total


@register_kernel(
    nn.LayerNorm,
    nn.RMSNorm,
    *(f"transformers.models.{kind.lower()}.modeling_{kind.lower()}.{kind}RMSNorm"
      for kind in ("Llama", "Mistral", "Qwen2", "Qwen3")),
)  # fmt: skip
def _norm(module: nn.Module, name: str, inputs: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
    if name == "weight":  # it multiplies the normalised input
        if isinstance(module, nn.LayerNorm):
            gradients = gradients * functional.layer_norm(inputs, inputs.shape[-1:], eps=module.eps)
        else:
            eps = module.eps if isinstance(module, nn.RMSNorm) else module.variance_epsilon
            gradients = gradients * functional.rms_norm(inputs, inputs.shape[-1:], eps=eps)  # type: ignore[arg-type]
    each = gradients.sum(dim=1)
    return _squares(each), each.sum(dim=0)


def _squares(each: Tensor) -> Tensor:
    return torch.linalg.vector_norm(each.flatten(1), dim=1).square()


@dataclass(frozen=True)
class _Parameter:
    name: str
    tensor: nn.Parameter
    module: nn.Module
    local: str  # the parameter's name in the module
    kernel: Kernel


class ScoredParameters:
    """The parameters whose gradients count, and how to split those gradients by example.

    ``names`` are dotted names in ``model``; the parameters may be trainable or frozen.
    Raises InputError for no name, an unknown name, a parameter that two modules share, and a module type
    without a kernel.
    """

    def __init__(self, model: nn.Module, names: Iterable[str]) -> None:
        self._parameters = _resolve(model, list(dict.fromkeys(names)))
        called = {module: name for name, module in model.named_modules()}
        self.modules = {p.module: called[p.module] for p in self._parameters}  # and their names, for messages

    def check(self, module: nn.Module, inputs: Tensor, output: Tensor, examples: int) -> None:
        """Raise NotByExample unless the first axis of both is the ``examples`` of the batch.

        In a batch of one every gradient is that example's, whatever the shapes.
        """
        for tensor in (inputs, output):
            if examples > 1 and (not tensor.ndim or tensor.shape[0] != examples):
                raise NotByExample(
                    f"'{self.modules[module]}' ({type(module).__name__}) handles {tuple(tensor.shape)} for {examples} "
                    "examples, so its gradient cannot be split by example; leave it out of the scores."
                )

    @torch.no_grad()
    def reduce(self, uses: Mapping[nn.Module, Sequence[Use]], examples: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Squared gradient norm of each example, (B,) float64 on the CPU, and each parameter's summed gradient.

        A parameter that the loss does not depend on counts as zero.
        """
        squares: list[Tensor] = []
        totals: dict[str, Tensor] = {}
        for p in self._parameters:
            if not uses.get(p.module):
                totals[p.name] = torch.zeros_like(p.tensor)
                continue
            # Uses add up before squaring: their positions side by side are the positions of one map.
            pairs = [_by_position(*use, examples) for use in uses[p.module]]
            inputs, gradients = pairs[0]
            if len(pairs) > 1:
                inputs, gradients = (torch.cat(part, dim=1) for part in zip(*pairs, strict=True))
            with torch.autocast(gradients.device.type, enabled=False):
                square, totals[p.name] = p.kernel(p.module, p.local, inputs, gradients)
            squares.append(square)
        if not squares:
            return torch.zeros(examples, dtype=torch.float64), totals
        # Added up in float64, on the CPU because not every accelerator has it.
        return torch.stack(squares).cpu().double().sum(dim=0), totals


def _resolve(model: nn.Module, names: list[str]) -> list[_Parameter]:
    if not names:
        raise InputError("Fisher scores need at least one parameter.")
    places: dict[str, tuple[nn.Module, str]] = {}
    shared: dict[nn.Parameter, list[str]] = {}
    for inside, module in model.named_modules():
        for local, tensor in module.named_parameters(recurse=False):
            name = f"{inside}.{local}" if inside else local
            places[name] = module, local
            shared.setdefault(tensor, []).append(name)
    found = []
    for name in names:
        if name not in places:
            raise InputError(f"There is no parameter '{name}' to score in {type(model).__name__}.")
        module, local = places[name]
        tensor = getattr(module, local)
        if len(shared[tensor]) > 1:
            raise InputError(f"The modules of {shared[tensor]} share one parameter; leave it out of the scores.")
        kernel = _KERNELS.get(_full_name(type(module)))
        if kernel is None:
            known = ", ".join(kind.rsplit(".", 1)[-1] for kind in _KERNELS)
            raise InputError(
                f"Fisher scores do not support '{name}' ({type(module).__name__}); supported: {known}. "
                "Leave it out of the scores, or choose another curriculum."
            )
        found.append(_Parameter(name, tensor, module, local, kernel))
    return found


def _by_position(inputs: Tensor, gradients: Tensor, examples: int) -> Use:
    """Both as (B, positions, features), half precision widened to fp32; token ids keep their type."""
    gradients = gradients.reshape(examples, -1, gradients.shape[-1])
    inputs = inputs.reshape(examples, gradients.shape[1], -1)
    if inputs.is_floating_point():
        inputs = inputs.to(torch.promote_types(inputs.dtype, torch.float32))
    return inputs, gradients.to(torch.promote_types(gradients.dtype, torch.float32))
