"""Difficulty of examples: the squared norm of each example's own gradient, for a whole batch in one backward pass.

For a linear map with input a (B, T, i) and output gradient g (B, T, o), the weight gradient of one example is
sum_t g_t a_t^T. Hooks keep a, autograd gives g, and everything else is a small product per map
(METHOD.md section 3; the same identity as in Goodfellow 2015 and Opacus).
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.utils.hooks import RemovableHandle
from transformers.pytorch_utils import Conv1D

from fibecfed.errors import InputError
from fibecfed.tasks import Batch, Task

# (module, the parameter's name in it, inputs (B, T, i), output gradients (B, T, o), weights (B,) or None)
# -> squared gradient norm of each example (B,), and the (weighted) sum of the examples' gradients.
Kernel = Callable[[nn.Module, str, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]

_Args = tuple[Any, ...]
_Kwargs = dict[str, Any]
_Use = tuple[Tensor, Tensor]  # inputs and output gradients of a module

_KERNELS: dict[type[nn.Module], Kernel] = {}

# Squaring one entry of a materialised gradient takes memory traffic worth about this many multiplications of a
# matrix product (measured on one CPU core with 384 x 384 and 384 x 1536 maps).
_ENTRY_COST = 8
_MOST_ENTRIES = 2**24  # entries of per-example gradients held at once: 64 MiB in fp32
_NORMALIZED = 1e-3  # how far the probabilities of all labels may sum from one


def register_kernel(*types: type[nn.Module]) -> Callable[[Kernel], Kernel]:
    """Give a layer type its kernel. Only the exact type matches: a subclass may compute something else."""

    def keep(kernel: Kernel) -> Kernel:
        _KERNELS.update(dict.fromkeys(types, kernel))
        return kernel

    return keep


@register_kernel(nn.Linear, Conv1D)
def _linear(
    module: nn.Module, name: str, inputs: Tensor, gradients: Tensor, weights: Tensor | None
) -> tuple[Tensor, Tensor]:
    if name == "bias":
        each = gradients.sum(dim=1)
        return _squares(each), _total(each, weights)
    # Conv1D stores its weight as (in, out), Linear as (out, in).
    rows, columns = (inputs, gradients) if isinstance(module, Conv1D) else (gradients, inputs)
    examples, positions, height = rows.shape
    width = columns.shape[2]
    if positions**2 * (height + width) < _ENTRY_COST * height * width:
        # sum over pairs of positions: (g_t . g_t') (a_t . a_t')
        pairs = (rows @ rows.mT) * (columns @ columns.mT)
        scaled = rows if weights is None else rows * weights[:, None, None]
        return pairs.sum(dim=(1, 2)).clamp_min(0), scaled.flatten(0, 1).mT @ columns.flatten(0, 1)
    step = max(1, _MOST_ENTRIES // (height * width))
    squares, total = [], None
    for start in range(0, examples, step):
        part = slice(start, start + step)
        each = rows[part].mT @ columns[part]
        squares.append(_squares(each))
        subtotal = _total(each, None if weights is None else weights[part])
        total = subtotal if total is None else total + subtotal
    assert total is not None  # a batch has at least one example
    return torch.cat(squares), total


@register_kernel(nn.Embedding)
def _embedding(
    module: nn.Module, name: str, inputs: Tensor, gradients: Tensor, weights: Tensor | None
) -> tuple[Tensor, Tensor]:
    assert isinstance(module, nn.Embedding)
    if module.max_norm is not None or module.scale_grad_by_freq:
        raise InputError("Fisher scores do not support embeddings with max_norm or scale_grad_by_freq.")
    ids = inputs.squeeze(2)
    if module.padding_idx is not None:
        gradients = gradients * (ids != module.padding_idx).unsqueeze(2)
    # Rows of different tokens are different parameters, so only pairs of equal tokens meet.
    same = (ids.unsqueeze(1) == ids.unsqueeze(2)).to(gradients.dtype)
    scaled = gradients if weights is None else gradients * weights[:, None, None]
    total = gradients.new_zeros(module.weight.shape).index_add_(0, ids.flatten(), scaled.flatten(0, 1))
    return ((gradients @ gradients.mT) * same).sum(dim=(1, 2)).clamp_min(0), total


def _squares(each: Tensor) -> Tensor:
    return torch.linalg.vector_norm(each.flatten(1), dim=1).square()


def _total(each: Tensor, weights: Tensor | None) -> Tensor:
    return each.sum(dim=0) if weights is None else (weights @ each.flatten(1)).view(each.shape[1:])


@dataclass(frozen=True)
class FisherPass:
    """What one scoring pass gives for a batch of B examples."""

    difficulty: Tensor  # (B,) float64 on the CPU: trace of the Fisher information of each example
    gradients: dict[str, Tensor]  # parameter name -> gradient of the summed loss, at least fp32
    embedding_gradient: Tensor | None  # (B, T, d) of the summed loss, at the input of the first block
    losses: Tensor  # (B,) -log p of the examples' own labels


@dataclass(frozen=True)
class _Parameter:
    """A parameter that counts, and every module that holds it (several when weights are tied)."""

    name: str
    tensor: nn.Parameter
    kernel: Kernel
    holders: tuple[tuple[nn.Module, str], ...]


@dataclass(frozen=True)
class _Call:
    """One use of a module in the forward pass."""

    inputs: Tensor
    version: int  # of the inputs, to notice changes in place
    output: GradientEdge


@dataclass
class _Recording:
    """What the hooks see in one forward pass."""

    examples: int
    calls: dict[nn.Module, list[_Call]] = field(default_factory=dict)
    hidden: GradientEdge | None = None

    @property
    def edges(self) -> list[GradientEdge]:
        """Where gradients are wanted: every call's output, then the first block's input if recorded."""
        outputs = [call.output for calls in self.calls.values() for call in calls]
        return outputs if self.hidden is None else [*outputs, self.hidden]


class FisherScorer:
    """Scores batches while its hooks are attached: ``with FisherScorer(model, names) as scorer``.

    ``names`` are the parameters that count (the caller leaves the head out), trainable or not.
    ``first_block`` is the lowest transformer layer; given, passes carry the gradient at its input.
    A pass changes no parameter, no ``.grad``, no ``requires_grad`` and no mode: switch to ``eval()`` first,
    because dropout makes scores random.
    Raises InputError for an unknown name and for a parameter of a module type without a kernel.
    """

    def __init__(self, model: nn.Module, names: Iterable[str], first_block: nn.Module | None = None) -> None:
        self._model = model
        self._parameters, self._modules = _resolve(model, tuple(names))
        self._first_block = first_block
        self._handles: list[RemovableHandle] = []
        self._recording: _Recording | None = None

    def __enter__(self) -> "FisherScorer":
        for module in self._modules:
            # First, so that what other hooks make of the output is not taken for the map's own output.
            self._handles.append(module.register_forward_hook(self._record, prepend=True, with_kwargs=True))
        if self._first_block is not None:
            self._handles.append(self._first_block.register_forward_pre_hook(self._record_hidden, with_kwargs=True))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def score(self, task: Task, batch: Batch) -> FisherPass:
        """Empirical Fisher, with the examples' own labels: one forward and one backward pass.

        Raises InputError if the maps cannot be told apart by example, or were not used at all.
        """
        with self._record_forward(len(batch)) as recording:
            losses = task.losses(self._model, batch)
        found = self._backward(recording, losses, retain=False)
        difficulty, gradients = self._reduce(recording, found, None)
        return FisherPass(difficulty, gradients, None if recording.hidden is None else found[-1], losses.detach())

    def score_model(self, task: Task, batch: Batch) -> FisherPass:
        """Fisher information under the model's own label distribution: one forward, C backward passes.

        difficulty = sum_y p(y|x) ||grad log p(y|x)||^2 over the task's C labels; the other fields are those of
        ``score``. Raises InputError as ``score`` does, and if the task is not a choice of one label.
        """
        with self._record_forward(len(batch)) as recording:
            outputs = self._model(batch)
            fixed = _Fixed(outputs)
            relabelled = [replace(batch, labels=torch.full_like(batch.labels, y)) for y in range(task.outputs)]
            losses = torch.stack([task.losses(fixed, other) for other in relabelled])  # (C, B)
        chances = torch.exp(-losses.detach())
        if not torch.allclose(chances.sum(dim=0), chances.new_ones(()), atol=_NORMALIZED):
            raise InputError(
                "fisher: model needs finite outputs and a task that gives each example one label out of a fixed set; "
                "use the true labels instead."
            )
        difficulty = torch.zeros(len(batch), dtype=torch.float64)
        gradients: dict[str, Tensor] = {}
        hidden: Tensor | None = None
        for label, loss in enumerate(losses):
            found = self._backward(recording, loss, retain=label < len(losses) - 1)
            own = (batch.labels == label).to(loss.dtype)
            part, totals = self._reduce(recording, found, own)
            difficulty += chances[label].cpu().double() * part
            gradients = {name: gradients[name] + total for name, total in totals.items()} if gradients else totals
            if recording.hidden is not None and (slope := found[-1]) is not None:
                slope = slope * own[:, None, None].to(slope.dtype)
                hidden = slope if hidden is None else hidden + slope
        return FisherPass(difficulty, gradients, hidden, losses.detach().gather(0, batch.labels[None])[0])

    @contextmanager
    def _record_forward(self, examples: int) -> Iterator[_Recording]:
        if not self._handles:
            raise RuntimeError("FisherScorer scores only inside its with block")
        recording = self._recording = _Recording(examples)
        try:
            with torch.enable_grad():
                yield recording
        finally:
            # Off before the backward pass: gradient checkpointing runs modules, and their hooks, again there.
            self._recording = None
        if not recording.calls:
            raise InputError("The model used none of the scored parameters; are its adapters merged or disabled?")

    def _record(self, module: nn.Module, args: _Args, kwargs: _Kwargs, output: Tensor) -> Tensor | None:
        recording = self._recording
        if recording is None:
            return None
        inputs: Tensor = args[0] if args else next(iter(kwargs.values()))
        if not inputs.ndim or inputs.shape[0] != recording.examples or output.shape[0] != recording.examples:
            raise InputError(
                f"'{self._modules[module]}' ({type(module).__name__}) received {tuple(inputs.shape)} for "
                f"{recording.examples} examples, so its gradient cannot be split by example; "
                "leave it out of the scores."
            )
        if not torch.is_grad_enabled():
            raise InputError(
                f"'{self._modules[module]}' runs without gradients; set use_reentrant=False for gradient checkpointing."
            )
        replaced = None
        if not output.requires_grad:  # a frozen map above frozen inputs: start the graph here
            output = replaced = output.detach().requires_grad_()
        # The edge, not the tensor: it stays right if the output is changed in place, and frees its memory.
        call = _Call(inputs.detach(), inputs._version, get_gradient_edge(output))
        recording.calls.setdefault(module, []).append(call)
        return replaced

    def _record_hidden(self, module: nn.Module, args: _Args, kwargs: _Kwargs) -> tuple[_Args, _Kwargs] | None:
        recording = self._recording
        if recording is None or recording.hidden is not None:
            return None
        hidden: Tensor = args[0] if args else kwargs["hidden_states"]
        if hidden.requires_grad:
            recording.hidden = get_gradient_edge(hidden)
            return None
        hidden = hidden.detach().requires_grad_()
        recording.hidden = get_gradient_edge(hidden)
        return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})

    def _backward(self, recording: _Recording, losses: Tensor, retain: bool) -> list[Tensor | None]:
        """Gradients at the recording's edges. Weights are not among them, so autograd computes no weight gradient."""
        return list(torch.autograd.grad(losses.sum(), recording.edges, retain_graph=retain, allow_unused=True))

    def _reduce(
        self, recording: _Recording, found: list[Tensor | None], weights: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Squared norm of each example's gradient (B,), and the weighted total gradient of each parameter."""
        used = self._by_module(recording, found)
        squares, totals = [], {}
        device = next(iter(recording.calls.values()))[0].inputs.device
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            for parameter in self._parameters:
                uses = [use for module, _ in parameter.holders for use in used.get(module, ())]
                if not uses:
                    totals[parameter.name] = torch.zeros_like(parameter.tensor)
                    continue
                # Uses add up before squaring: their positions side by side are the positions of one map.
                inputs, gradients = uses[0]
                if len(uses) > 1:
                    inputs, gradients = (torch.cat(part, dim=1) for part in zip(*uses, strict=True))
                module, local = parameter.holders[0]
                scale = None if weights is None else weights.to(gradients.dtype)
                square, totals[parameter.name] = parameter.kernel(module, local, inputs, gradients, scale)
                squares.append(square)
        if not squares:
            return torch.zeros(recording.examples, dtype=torch.float64), totals
        # Added up in float64, on the CPU because not every accelerator has it.
        return torch.stack(squares).cpu().double().sum(dim=0), totals

    def _by_module(self, recording: _Recording, found: list[Tensor | None]) -> dict[nn.Module, list[_Use]]:
        """The (inputs, output gradients) of each use that the loss depends on, each (B, positions, features)."""
        used: dict[nn.Module, list[_Use]] = {}
        remaining = iter(found)
        for module, calls in recording.calls.items():
            for call in calls:
                gradient = next(remaining)
                if call.inputs._version != call.version:
                    raise InputError(f"'{self._modules[module]}' cannot be scored: its input was changed in place.")
                if gradient is not None:
                    used.setdefault(module, []).append(_by_position(call.inputs, gradient))
        return used


class _Fixed(nn.Module):
    """A model whose outputs are known already, so that a task can judge them under other labels."""

    def __init__(self, outputs: Tensor) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, batch: Batch) -> Tensor:
        return self.outputs


def _resolve(model: nn.Module, names: tuple[str, ...]) -> tuple[list[_Parameter], dict[nn.Module, str]]:
    """The named parameters with their kernels, and the modules that hold them with their names for messages."""
    known = dict(model.named_parameters(remove_duplicate=False))
    holders: dict[nn.Parameter, list[tuple[nn.Module, str]]] = {}
    labels: dict[nn.Module, str] = {}
    for label, module in model.named_modules():
        labels[module] = label
        for local, tensor in module.named_parameters(recurse=False, remove_duplicate=False):
            holders.setdefault(tensor, []).append((module, local))
    parameters: dict[nn.Parameter, _Parameter] = {}
    for name in dict.fromkeys(names):
        if name not in known:
            raise InputError(f"There is no parameter '{name}' to score in {type(model).__name__}.")
        tensor = known[name]
        if tensor in parameters:
            raise InputError(f"'{name}' and '{parameters[tensor].name}' are one parameter; name it once.")
        kinds = {(type(module), local) for module, local in holders[tensor]}
        if len(kinds) > 1:
            tied = ", ".join(f"'{labels[module]}' ({type(module).__name__})" for module, _ in holders[tensor])
            raise InputError(f"'{name}' is shared by {tied}, which use it differently; leave it out of the scores.")
        module = holders[tensor][0][0]
        parameters[tensor] = _Parameter(name, tensor, _kernel(labels[module], module), tuple(holders[tensor]))
    if not parameters:
        raise InputError("Fisher scores need at least one parameter.")
    scored = list(parameters.values())
    return scored, {module: labels[module] for parameter in scored for module, _ in parameter.holders}


def _kernel(label: str, module: nn.Module) -> Kernel:
    kernel = _KERNELS.get(type(module))
    if kernel is None:
        kinds = ", ".join(kind.__name__ for kind in _KERNELS)
        raise InputError(
            f"Fisher scores do not support '{label}' ({type(module).__name__}); supported: {kinds}. "
            "Leave its parameters out of the scores, or choose another curriculum."
        )
    return kernel


def _by_position(inputs: Tensor, gradients: Tensor) -> _Use:
    """Both as (B, positions, features), half precision widened to fp32; token ids keep their type."""
    gradients = gradients.reshape(len(gradients), -1, gradients.shape[-1])
    inputs = inputs.reshape(len(gradients), gradients.shape[1], -1)
    if inputs.is_floating_point():
        inputs = inputs.to(torch.promote_types(inputs.dtype, torch.float32))
    return inputs, gradients.to(torch.promote_types(gradients.dtype, torch.float32))
