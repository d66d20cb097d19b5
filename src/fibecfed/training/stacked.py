"""Parameters of several devices at once: linear maps with weights of its own for each equal part of a batch."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


class CannotStack(Exception):
    """Why devices cannot be passed together, as the end of a sentence."""


class StackedParameters:
    """K devices' values of some of a model's parameters, a row for each, so that one optimizer step moves all.

    ``names``: parameters of linear maps; ``starts``: the K devices' values by name. What moves in a row is what the
    device's job trains: another entry gets no gradient and stays bit-identical, weight decay included.
    """

    def __init__(
        self,
        model: nn.Module,
        names: Sequence[str],
        starts: Sequence[Mapping[str, Tensor]],
        trained: Sequence[Mapping[str, Tensor | None]],
        device: torch.device,
    ) -> None:
        rows = [torch.cat([start[name].reshape(-1) for name in names]) for start in starts]
        self.values = nn.Parameter(torch.stack(rows).to(device))  # (K, n)
        self._model = model
        self._shapes = {name: starts[0][name].shape for name in names}
        ends = torch.tensor([shape.numel() for shape in self._shapes.values()]).cumsum(0).tolist()
        self._columns = {
            name: slice(end - shape.numel(), end) for (name, shape), end in zip(self._shapes.items(), ends, strict=True)
        }
        moving = {name for of_device in trained for name in of_device}
        self._leaves = {name: self.of(name).requires_grad_(name in moving) for name in names}
        self._moves = self._moving(trained).to(device)  # (K, n)
        self._active, self._examples = len(starts), 1

    def of(self, name: str) -> Tensor:
        """(K, ...) of one parameter, which shares its memory with ``values``."""
        return self.values.detach()[:, self._columns[name]].view(-1, *self._shapes[name])

    def leaves(self, number: int) -> dict[str, Tensor]:
        """One device's values, differentiable, as views of what the maps use."""
        return {name: leaf[number] for name, leaf in self._leaves.items()}

    def of_device(self, number: int, names: Collection[str]) -> dict[str, Tensor]:
        """Copies of one device's values."""
        row = self.values[number].detach().cpu()
        return {name: row[self._columns[name]].view(self._shapes[name]).clone() for name in names}

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Meanwhile the model's maps use these values, each device's for its part of what ``expect`` announces."""
        maps: dict[str, dict[str, Tensor]] = {}
        for name, leaf in self._leaves.items():
            owner, _, kind = name.rpartition(".")
            maps.setdefault(owner, {})[kind] = leaf
        try:
            for owner, own in maps.items():
                module: Any = self._model.get_submodule(owner)
                module.forward = partial(self._mapped, owner, module, own)
            yield
        finally:
            for owner in maps:
                self._model.get_submodule(owner).__dict__.pop("forward", None)  # the class's own shows again

    def expect(self, active: int, examples: int) -> None:
        """Batches that come hold ``examples`` of each of the first ``active`` devices, device after device."""
        self._active, self._examples = active, examples

    def step(self, optimizer: torch.optim.Optimizer, max_norm: float | None) -> None:
        """One step of ``optimizer`` (over ``values``) for the devices that are active, each clipped by its own norm."""
        parts = []
        for name, leaf in self._leaves.items():
            if leaf.grad is None:
                self._moves[:, self._columns[name]] = False  # no loss depends on it: an optimizer leaves it
            parts.append(torch.zeros_like(leaf) if leaf.grad is None else leaf.grad)
            leaf.grad = None
        gradient = torch.cat([part.flatten(1) for part in parts], dim=1)
        moves = self._moves.clone()
        moves[self._active :] = False
        gradient.masked_fill_(~moves, 0.0)
        if max_norm is not None:
            norms = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
            gradient.mul_((max_norm / (norms + 1e-6)).clamp(max=1.0))  # as torch's clip_grad_norm_
        before = self.values.detach().clone()
        self.values.grad = gradient
        optimizer.step()
        with torch.no_grad():
            self.values.copy_(torch.where(moves, self.values, before))

    def _mapped(self, name: str, module: nn.Linear, own: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """What a linear map makes of inputs (K R ..., in) of K devices with R examples each."""
        devices = self._active
        if len(inputs) % (devices * self._examples):
            raise CannotStack(f"'{name}' reads what is not of one example each")
        if devices < len(self.values):
            own = {kind: leaf[:devices] for kind, leaf in own.items()}
        weight = own["weight"] if "weight" in own else module.weight.expand(devices, -1, -1)
        parts = inputs.reshape(devices, -1, inputs.shape[-1])
        bias = own.get("bias", module.bias)
        if bias is None:
            found = torch.bmm(parts, weight.mT)
        else:
            found = torch.baddbmm(bias.expand(devices, -1)[:, None], parts, weight.mT)
        return found.view(*inputs.shape[:-1], -1)

    def _moving(self, trained: Sequence[Mapping[str, Tensor | None]]) -> Tensor:
        """(K, n) which entries each device's job moves."""
        moves = torch.zeros(self.values.shape, dtype=torch.bool)
        for row, of_device in zip(moves, trained, strict=True):
            for name, rows in of_device.items():
                part = row[self._columns[name]].view(self._shapes[name])
                part[slice(None) if rows is None else rows] = True
        return moves
