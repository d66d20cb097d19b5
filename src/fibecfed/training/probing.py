"""Whether parameters of a model can be stacked: one probe, since a wrong answer would not be seen in a loss."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from fibecfed.data import TokenizedSet
from fibecfed.tasks import Batch, Task
from fibecfed.training.stacked import CannotStack, StackedParameters
from fibecfed.training.together import joined
from fibecfed.tuning import Layout, put_tensors

# How far rounding moves losses (relative, L2) that are made in batches of another size. Source: project decision.
_ROUNDING = {torch.float32: 1e-4}
_ROUNDING_OF_HALF = 0.1
_SPREAD = 3.0  # of drawn entries: a map changes its input by several times what it is


def why_not_stacked(
    model: nn.Module, task: Task, data: TokenizedSet, layout: Layout, names: Sequence[str]
) -> str | None:
    """Why losses of two devices passed together are not those of each alone, with drawn parameters; None if they are.

    ``names`` are stacked, the others of the layout are the same for both. It finds a model that mixes examples, and
    one that reads a weight past its map, where there is NaN meanwhile. The model is left as it was.
    """
    parameters = dict(model.named_parameters())
    before = {p.name: parameters[p.name].detach().clone() for p in layout}
    try:
        with torch.no_grad():
            return _probed(model, task, data, layout, names)
    except CannotStack as why:
        return str(why)
    finally:
        put_tensors(model, before)


def _probed(model: nn.Module, task: Task, data: TokenizedSet, layout: Layout, names: Sequence[str]) -> str | None:
    """As ``why_not_stacked``; the model is left with drawn parameters. Raises CannotStack."""
    device = next(model.parameters()).device
    draw = torch.Generator().manual_seed(0)
    first, second = ({p.name: _drawn(p.shape, draw) for p in layout} for _ in range(2))
    second |= {name: tensor for name, tensor in first.items() if name not in names}
    past_maps = {name: tensor * torch.nan if name in names else tensor for name, tensor in first.items()}
    shortest, longest = np.argsort(data.lengths, kind="stable")[[0, -1]]
    own = [data.batch(np.array([shortest])), data.batch(np.array([longest, shortest]))]
    batch = joined(own, data.pad_id)
    alone = [_losses(model, task, tensors, one.to(device)) for tensors, one in zip((first, second), own, strict=True)]
    stack = StackedParameters(model, names, [first, second], [{}, {}], device)
    stack.expect(2, len(batch) // 2)
    with stack.in_place():
        together = _losses(model, task, past_maps, batch.to(device)).view(2, -1)
    made, wanted = torch.cat([together[0, : len(own[0])], together[1, : len(own[1])]]), torch.cat(alone)
    limit = _ROUNDING.get(next(model.parameters()).dtype, _ROUNDING_OF_HALF)
    if float((made - wanted).norm()) <= limit * float(wanted.norm()):
        return None
    return "the model reads parameters, or other examples, in a way that is lost when devices are passed together"


def _losses(model: nn.Module, task: Task, tensors: Mapping[str, Tensor], batch: Batch) -> Tensor:
    put_tensors(model, tensors)
    return task.losses(model, batch)


def _drawn(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    return torch.randn(tuple(shape), generator=generator) * _SPREAD * shape[-1] ** -0.5
