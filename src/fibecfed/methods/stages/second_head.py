"""A device's second head, trained beside the shared one: how its state holds it, and how it begins."""

from collections.abc import Mapping

import torch
from torch import Tensor

from fibecfed.federation import DeviceState
from fibecfed.tasks import HEAD_BIAS, HEAD_WEIGHT

OWN_HEAD = "own head/"  # in the memory of a device's state


def kept_head(state: DeviceState | None) -> dict[str, Tensor]:
    """The head that a device keeps, by the name of the shared parameter it is added to; {} if it has none."""
    memory = state.memory if state else {}
    return {name.removeprefix(OWN_HEAD): t for name, t in memory.items() if name.startswith(OWN_HEAD)}


def first_head(initial: Mapping[str, Tensor], offset: Tensor | None) -> dict[str, Tensor]:
    """Zero, but for the device's proportions in its bias where the shared head does not learn them."""
    bias = torch.zeros_like(initial[HEAD_BIAS])
    return {HEAD_WEIGHT: torch.zeros_like(initial[HEAD_WEIGHT]), HEAD_BIAS: bias if offset is None else bias + offset}
