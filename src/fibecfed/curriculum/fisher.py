"""Difficulty of examples: the trace of each one's Fisher information, for a whole batch in one backward pass.

Hooks keep the inputs of the scored layers, autograd gives the gradients at their outputs, and the kernels do the
rest (docs/method.md section 3: the trace [P], one pass for a batch [D]).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.utils.hooks import RemovableHandle

from fibecfed.curriculum.kernels import NotByExample, ScoredParameters, Use
from fibecfed.errors import InputError
from fibecfed.tasks import Batch, Task

_Args = tuple[Any, ...]
_Kwargs = dict[str, Any]

_NORMALIZED = 1e-3  # how far the probabilities of all targets may sum from one


@dataclass(frozen=True)
class FisherPass:
    """What one scoring pass gives for a batch of B examples."""

    difficulty: Tensor  # (B,) float64 on the CPU: trace of the Fisher information of each example
    gradients: dict[str, Tensor]  # parameter name -> gradient of the summed loss, at least fp32
    embedding_gradient: Tensor | None  # (B, T, d) of the summed loss, at the input of the first block
    losses: Tensor  # (B,) -log p of the examples' own targets


@dataclass(frozen=True)
class _Call:
    """One use of a module in the forward pass."""

    module: nn.Module
    inputs: Tensor
    version: int  # of the inputs, to notice changes in place
    output: GradientEdge


@dataclass
class _Recording:
    """What the hooks see in one forward pass."""

    examples: int
    calls: list[_Call] = field(default_factory=list)
    hidden: GradientEdge | None = None


class FisherScorer:
    """Scores batches while its hooks are attached: ``with FisherScorer(model, names) as scorer``.

    ``names`` are the parameters that count (the caller leaves the head out), trainable or not.
    ``first_block`` is the lowest transformer layer; given, passes carry the gradient at its input.
    A pass changes no parameter, no ``.grad``, no ``requires_grad`` and no mode: switch to ``eval()`` first,
    because dropout makes scores random. A model with a scored layer that serves all examples at once (DeBERTa's
    relative positions) or flattens them (OPT's feed-forward) is scored one example at a time, which is slower.
    Raises InputError as ``ScoredParameters`` does.
    """

    def __init__(self, model: nn.Module, names: Iterable[str], first_block: nn.Module | None = None) -> None:
        self._model = model
        self._scored = ScoredParameters(model, names)
        self._first_block = first_block
        self._handles: list[RemovableHandle] = []
        self._recording: _Recording | None = None
        self._one_by_one = False

    def __enter__(self) -> "FisherScorer":
        for module in self._scored.modules:
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
        """Empirical Fisher, with the examples' own targets: one forward and one backward pass.

        Raises InputError if the scored parameters were not used at all.
        """
        return self._by_example(self._score, task, batch)

    def score_model(self, task: Task, batch: Batch) -> FisherPass:
        """Fisher information under the model's own predictive distribution: one forward, C backward passes.

        difficulty = sum_y p(y|x) ||grad log p(y|x)||^2 over the task's C outputs; the other fields are those of
        ``score``. Raises InputError as ``score`` does, and if the task is not a choice of one output.
        """
        return self._by_example(self._score_model, task, batch)

    def _by_example(self, way: Callable[[Task, Batch], FisherPass], task: Task, batch: Batch) -> FisherPass:
        if not self._one_by_one:
            try:
                return way(task, batch)
            except NotByExample:
                self._one_by_one = True
        return _joined([way(task, batch.rows(i, i + 1)) for i in range(len(batch))])

    def _score(self, task: Task, batch: Batch) -> FisherPass:
        with self._record_forward(len(batch)) as recording:
            losses = task.losses(self._model, batch)
        found, hidden = _backward(recording, losses, retain=False)
        difficulty, gradients = self._reduce(recording, found)
        return FisherPass(difficulty, gradients, hidden, losses.detach())

    def _score_model(self, task: Task, batch: Batch) -> FisherPass:
        with self._record_forward(len(batch)) as recording:
            outputs = _Fixed(self._model(batch))
            relabelled = [replace(batch, targets=torch.full_like(batch.targets, y)) for y in range(task.outputs)]
            by_target = [task.losses(outputs, other) for other in relabelled]
        losses = torch.stack([loss.detach() for loss in by_target])  # (C, B)
        chances = torch.exp(-losses)
        if not torch.allclose(chances.sum(dim=0), chances.new_ones(()), atol=_NORMALIZED):
            raise InputError(
                "fisher: model needs finite outputs, and for each example one choice out of a fixed set; "
                "use curriculum.score=fisher instead."
            )
        difficulty = torch.zeros(len(batch), dtype=torch.float64)
        own: list[Tensor | None] = [None] * (len(recording.calls) + 1)
        for target, loss in enumerate(by_target):
            found, hidden = _backward(recording, loss, retain=target < len(by_target) - 1)
            difficulty += chances[target].cpu().double() * self._reduce(recording, found)[0]
            # The gradients under the true targets, put together example by example, cost no further backward pass.
            rows = batch.targets == target
            own = [_put_rows(old, new, rows) for old, new in zip(own, (*found, hidden), strict=True)]
        gradients = self._reduce(recording, own[:-1])[1]
        return FisherPass(difficulty, gradients, own[-1], losses.gather(0, batch.targets[None])[0])

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
        self._scored.check(module, inputs, output, recording.examples)
        if not torch.is_grad_enabled():
            raise InputError(
                f"'{self._scored.modules[module]}' runs without gradients, so it cannot be scored "
                "(reentrant gradient checkpointing does this; set use_reentrant=False)."
            )
        replaced = None
        if not output.requires_grad:  # a frozen map above frozen inputs: start the graph here
            output = replaced = output.detach().requires_grad_()
        # The edge, not the tensor: it stays right if the output is changed in place, and frees its memory.
        recording.calls.append(_Call(module, inputs.detach(), inputs._version, get_gradient_edge(output)))
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

    def _reduce(self, recording: _Recording, found: list[Tensor | None]) -> tuple[Tensor, dict[str, Tensor]]:
        uses: dict[nn.Module, list[Use]] = {}
        for call, gradient in zip(recording.calls, found, strict=True):
            if call.inputs._version != call.version:
                name = self._scored.modules[call.module]
                raise InputError(f"'{name}' cannot be scored: its input was changed in place.")
            if gradient is not None:
                uses.setdefault(call.module, []).append((call.inputs, gradient))
        return self._scored.reduce(uses, recording.examples)


class _Fixed(nn.Module):
    """A model whose outputs are known already, so that a task can judge them under other targets."""

    def __init__(self, outputs: Tensor) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, batch: Batch) -> Tensor:
        return self.outputs


def _joined(passes: Sequence[FisherPass]) -> FisherPass:
    """One pass of several examples out of their passes, all padded alike."""
    hidden = [p.embedding_gradient for p in passes if p.embedding_gradient is not None]
    return FisherPass(
        torch.cat([p.difficulty for p in passes]),
        {name: torch.stack([p.gradients[name] for p in passes]).sum(dim=0) for name in passes[0].gradients},
        torch.cat(hidden) if len(hidden) == len(passes) else None,
        torch.cat([p.losses for p in passes]),
    )


def _backward(recording: _Recording, losses: Tensor, retain: bool) -> tuple[list[Tensor | None], Tensor | None]:
    """Gradients at the calls' outputs and at the first block's input; None where the loss does not depend on them.

    Weights are not asked for, so autograd computes no weight gradient.
    """
    edges = [call.output for call in recording.calls]
    if recording.hidden is not None:
        edges.append(recording.hidden)
    ones = torch.ones_like(losses)
    found: list[Tensor | None] = list(torch.autograd.grad(losses, edges, ones, retain_graph=retain, allow_unused=True))
    return (found, None) if recording.hidden is None else (found[:-1], found[-1])


def _put_rows(old: Tensor | None, new: Tensor | None, rows: Tensor) -> Tensor | None:
    """``new`` where ``rows`` (B,) is true, else ``old``; None counts as zero."""
    if new is None:
        return old
    chosen = rows.view(-1, *[1] * (new.ndim - 1))
    return torch.where(chosen, new, torch.zeros_like(new) if old is None else old)
