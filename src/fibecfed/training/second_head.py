"""A second head of the device's own, trained in the same forward pass (Fed-RoD: Chen and Chao, ICLR 2022).

It is added to the shared head's outputs, reads detached features, and leaves all else that trains bit-identical.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fibecfed.tasks import HEAD_BIAS, HEAD_WEIGHT, Batch, Task

OPERATIONS = 4  # for each entry of the weight and example: forward, and backward to the weight alone


class SecondHead(nn.Module):
    """Outputs (B, outputs) of both heads for the batch that the model saw last; only the second one learns."""

    def __init__(
        self,
        start: Mapping[str, Tensor],
        device: torch.device,
        make_optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
        max_norm: float | None,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(start[HEAD_WEIGHT].clone().to(device))
        self.bias = nn.Parameter(start[HEAD_BIAS].clone().to(device))
        self._optimizer = make_optimizer([self.weight, self.bias])
        self._max_norm = max_norm
        self._seen: tuple[Tensor, Tensor] | None = None

    @contextmanager
    def beside(self, model: nn.Module) -> Iterator[None]:
        """While the model trains, look at what its own head reads and says."""
        head = model.get_submodule(HEAD_WEIGHT.rpartition(".")[0])
        hook = head.register_forward_hook(self._see)
        try:
            yield
        finally:
            hook.remove()

    def _see(self, head: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self._seen = inputs[0].detach(), output.detach()

    def forward(self, batch: Batch) -> Tensor:
        """The outputs for the batch that was seen."""
        assert self._seen is not None
        features, outputs = self._seen
        return outputs + functional.linear(features.float(), self.weight, self.bias)

    def learn(self, task: Task, batch: Batch, weights: Tensor | None, size: int) -> None:
        """Add the gradient of the task's plain loss over what was just seen, of a batch of ``size``."""
        losses: Any = task.losses(self, batch)
        (losses if weights is None else losses * weights.to(losses)).sum().div(size).backward()

    def step(self) -> None:
        """One step of an optimizer of its own, fresh each round, clipped by itself."""
        if self._max_norm is not None:
            nn.utils.clip_grad_norm_([self.weight, self.bias], self._max_norm)
        self._optimizer.step()
        self._optimizer.zero_grad()

    def result(self) -> dict[str, Tensor]:
        """As the job's ``own_head``."""
        return {HEAD_WEIGHT: self.weight.detach().cpu().clone(), HEAD_BIAS: self.bias.detach().cpu().clone()}
