"""Local training of one device on the resident model."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from fibecfed.config import TrainingConfig
from fibecfed.tasks import Batch, Task
from fibecfed.training.job import DeviceFailed, TrainJob
from fibecfed.training.second_head import SecondHead


class MovingRows:
    """The parts of a parameter that move, as a compact parameter of their own.

    Clipping, weight decay and optimizer state see only these rows; the others are never written.
    With all rows it is the parameter itself. Source: docs/method.md section 6.
    """

    def __init__(self, parameter: nn.Parameter, rows: Tensor | None) -> None:
        self.parameter = parameter
        self.rows = None if rows is None else rows.to(parameter.device)
        self.compact = parameter if self.rows is None else nn.Parameter(parameter.detach()[self.rows].clone())

    def take_gradient(self) -> None:
        """Bring the gradient from the whole parameter to the compact one."""
        if self.rows is not None:
            gradient = self.parameter.grad
            self.compact.grad = None if gradient is None else gradient[self.rows]

    def write_back(self) -> None:
        """Bring the moved values from the compact parameter to the whole one."""
        if self.rows is not None:
            with torch.no_grad():
                self.parameter.index_copy_(0, self.rows, self.compact)


class ShiftedOutputs(nn.Module):
    """A model whose outputs are moved by a constant (outputs,), in training only."""

    def __init__(self, model: nn.Module, offset: Tensor) -> None:
        super().__init__()
        self.model = model
        self.offset = offset

    def forward(self, batch: Batch) -> Tensor:
        return self.model(batch) + self.offset.to(batch.targets.device)


def train(
    model: nn.Module,
    task: Task,
    job: TrainJob,
    batches: Iterator[Batch],
    settings: TrainingConfig,
    second: SecondHead | None = None,
) -> tuple[float, dict[str, Tensor]]:
    """Run the job's steps on a model that already holds its tensors; returns the summed loss and optimizer state.

    A ``second`` head is beside the model already, and learns from the same passes.

    Raises DeviceFailed when the loss is NaN or infinite.
    """
    parameters = dict(model.named_parameters())
    moving = {name: MovingRows(parameters[name], rows) for name, rows in job.trained.items()}
    compact = [m.compact for m in moving.values()]
    optimizer = make_optimizer(compact, job.learning_rate, settings)
    for name, rate in job.rates.items():
        _set_apart(optimizer, moving[name].compact, rate)
    load_optimizer_state(optimizer, moving, job.optimizer_state)
    forward = model if job.output_offset is None else ShiftedOutputs(model, job.output_offset)
    total = 0.0
    for step, (chosen, batch) in enumerate(zip(job.batches, batches, strict=True)):
        for name in moving:
            parameters[name].grad = None
        weights = None if job.weights is None else torch.tensor([job.weights[int(i)] for i in chosen])
        with anchored(parameters, job.anchor if step in job.anchored else {}):
            total += _accumulate(forward, task, batch, weights, settings.micro_batch_size, job, step, second)
            if job.penalty is not None:
                job.penalty(parameters).backward()
        if job.observer is not None:
            job.observer.observe(parameters)
        for part in moving.values():
            part.take_gradient()
        if settings.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(compact, settings.max_grad_norm)
        optimizer.step()
        if second is not None:
            second.step()
        for part in moving.values():
            part.write_back()
    return total, save_optimizer_state(optimizer, moving) if settings.keep_optimizer else {}


@contextmanager
def anchored(parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> Iterator[None]:
    """These parameters have these values and get no gradient, so that an optimizer leaves them and its memory of them.

    Afterwards they are as they were.
    """
    own = {name: parameters[name].detach().clone() for name in values}
    _put(parameters, values, trains=False)
    try:
        yield
    finally:
        _put(parameters, own, trains=True)


def _put(parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor], trains: bool) -> None:
    with torch.no_grad():
        for name, value in values.items():
            parameters[name].copy_(value)
            parameters[name].requires_grad_(trains)


def _accumulate(
    model: nn.Module,
    task: Task,
    batch: Batch,
    weights: Tensor | None,
    micro: int | None,
    job: TrainJob,
    step: int,
    second: SecondHead | None,
) -> float:
    """Gradient of the batch's (weighted) mean loss, in micro-batches if asked; returns the summed loss."""
    total, size, scale = 0.0, len(batch), task.training_scale(batch)
    for start in range(0, size, micro or size):
        part = batch.rows(start, start + micro) if micro else batch
        losses = task.losses(model, part)
        weight = None if weights is None else weights[start : start + (micro or size)]
        if weight is not None:
            losses = losses * weight.to(losses)
        if scale is not None:
            losses = losses * scale
        loss = losses.sum() / size
        loss.backward()
        if second is not None:
            second.learn(task, part, weight, size)
        total += float(loss.detach()) * size
    if not math.isfinite(total):
        raise DeviceFailed(
            f"the loss of device {job.device} became {total} at step {step + 1} of round {job.round}; "
            "lower training.learning_rate or check the data"
        )
    return total


def make_optimizer(
    parameters: list[nn.Parameter], learning_rate: float, settings: TrainingConfig
) -> torch.optim.Optimizer:
    """The device optimizer of the configuration."""
    if settings.optimizer == "sgd":
        return torch.optim.SGD(
            parameters,
            lr=learning_rate,
            momentum=settings.momentum or 0.0,
            weight_decay=settings.weight_decay,
            foreach=True,
        )
    return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=settings.weight_decay, foreach=True)


def _set_apart(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, rate: float) -> None:
    """Give a parameter of the first group a group of its own with another learning rate."""
    first = optimizer.param_groups[0]
    first["params"] = [p for p in first["params"] if p is not parameter]
    same = {key: value for key, value in first.items() if key not in ("params", "lr")}
    optimizer.add_param_group({**same, "params": [parameter], "lr": rate})


def scheduled_rate(settings: TrainingConfig, round: float, rounds: int) -> float:
    """The learning rate of a 1-based round, or of a point between two; linear and cosine end at a tenth of the peak."""
    progress = (round - 1) / max(1, rounds - 1)
    if settings.schedule == "linear":
        factor = 1 - 0.9 * progress
    elif settings.schedule == "cosine":
        factor = 0.1 + 0.45 * (1 + math.cos(math.pi * progress))
    else:
        factor = 1.0
    return settings.learning_rate * factor


def save_optimizer_state(optimizer: torch.optim.Optimizer, moving: Mapping[str, MovingRows]) -> dict[str, Tensor]:
    """Optimizer tensors as ``name/key``, copied."""
    state: dict[str, Tensor] = {}
    for name, part in moving.items():
        for key, value in optimizer.state.get(part.compact, {}).items():
            if isinstance(value, Tensor):
                state[f"{name}/{key}"] = value.detach().cpu().clone()
    return state


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, moving: Mapping[str, MovingRows], state: Mapping[str, Tensor]
) -> None:
    """The reverse of ``save_optimizer_state``; nothing for an empty state."""
    for path, value in state.items():
        name, key = path.rsplit("/", 1)
        if name in moving:
            part = moving[name]
            kept = value.clone() if key == "step" else value.clone().to(part.compact.device)
            if part.rows is not None and kept.shape == part.parameter.shape != part.compact.shape:
                kept = kept[part.rows]  # the whole matrix trained before, only these rows do now
            optimizer.state[part.compact][key] = kept


def batch_sizes(batches: list[np.ndarray], lengths: np.ndarray) -> list[tuple[int, int]]:
    """(B, T) of each batch after padding."""
    return [(len(b), int(lengths[b].max())) for b in batches]
