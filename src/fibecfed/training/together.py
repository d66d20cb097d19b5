"""Local training of several devices in one forward and one backward pass a step."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fibecfed.config import TrainingConfig
from fibecfed.data import TokenizedSet
from fibecfed.tasks import IGNORED, Batch, Task
from fibecfed.training.job import DeviceFailed, TrainJob
from fibecfed.training.judging import TrainingCounts
from fibecfed.training.local import ShiftedOutputs, make_optimizer
from fibecfed.training.stacked import StackedParameters


def train_together(
    model: nn.Module,
    task: Task,
    data: TokenizedSet,
    jobs: Sequence[TrainJob],
    stack: StackedParameters,
    settings: TrainingConfig,
    seen: Sequence[TrainingCounts | None],
) -> list[float]:
    """Run the steps of jobs, of which those with most steps come first; returns each one's summed loss, as ``train``.

    ``stack`` holds their parameters, before and after. A step's loss is the sum of the devices' own mean losses, of
    which each depends on the parameters of one device. A job that has no step left takes no part. ``seen`` counts what
    jobs want counted.

    Raises DeviceFailed when a loss is NaN or infinite, CannotStack.
    """
    device = stack.values.device
    optimizer = make_optimizer([stack.values], jobs[0].learning_rate, settings)
    totals = [0.0] * len(jobs)
    for step in range(max(len(job.batches) for job in jobs)):
        active = [job for job in jobs if step < len(job.batches)]
        own = [data.batch(job.batches[step], job.max_tokens) for job in active]
        batch = joined(own, data.pad_id).to(device)
        examples = len(batch) // len(active)
        whole, share = (factors.to(device) for factors in _factors(task, active, own, step, examples))
        offset = _offset(active, examples)
        stack.expect(len(active), examples)
        with _kept_outputs(model) as outputs:
            losses = task.losses(model if offset is None else ShiftedOutputs(model, offset), batch)
        (losses * share).sum().backward()
        for number, job in enumerate(active):
            if job.penalty is not None:
                job.penalty(stack.leaves(number)).backward()
            if (count := seen[number]) is not None:
                begin = number * examples
                count.count(outputs[0][begin : begin + len(own[number])], own[number].to(device))
        found = (losses.detach() * whole).view(len(active), -1).sum(dim=1).tolist()
        for number, (job, loss) in enumerate(zip(active, found, strict=True)):
            if not math.isfinite(loss):
                raise DeviceFailed(f"the loss of device {job.device} became {loss} at step {step + 1}")
            totals[number] += loss
        stack.step(optimizer, settings.max_grad_norm)
    return totals


def joined(batches: Sequence[Batch], pad_id: int) -> Batch:
    """K batches as one of K R examples, R being the most that one of them has; the others repeat their last.

    Padded on the right to the longest of all.
    """
    examples, width = max(map(len, batches)), max(batch.input_ids.shape[1] for batch in batches)

    def together(parts: Sequence[Tensor], fill: int) -> Tensor:
        of_tokens = parts[0].shape == batches[0].input_ids.shape
        found = []
        for part in parts:
            if of_tokens and part.shape[1] < width:
                part = nn.functional.pad(part, (0, width - part.shape[1]), value=fill)
            rows = torch.arange(examples).clamp(max=len(part) - 1)
            found.append(part[rows] if len(part) < examples else part)
        return torch.cat(found)

    types = [batch.token_type_ids for batch in batches if batch.token_type_ids is not None]
    return Batch(
        input_ids=together([batch.input_ids for batch in batches], pad_id),
        attention_mask=together([batch.attention_mask for batch in batches], 0),
        targets=together([batch.targets for batch in batches], IGNORED),
        token_type_ids=together(types, 0) if types else None,
    )


def _factors(
    task: Task, jobs: Sequence[TrainJob], batches: Sequence[Batch], step: int, examples: int
) -> tuple[Tensor, Tensor]:
    """(K R,) what an example's loss counts in its device's sum, and in its mean loss, which is differentiated.

    0 for a repeat.
    """
    whole, share = torch.zeros(len(jobs), examples), torch.zeros(len(jobs), examples)
    for row, mean, job, batch in zip(whole, share, jobs, batches, strict=True):
        size, scale = len(batch), task.training_scale(batch)
        row[:size] = 1.0
        if job.weights is not None:
            row[:size] = torch.tensor([job.weights[int(i)] for i in job.batches[step]])
        row *= 1.0 if scale is None else scale
        mean[:] = row / size
    return whole.view(-1), share.view(-1)


def _offset(jobs: Sequence[TrainJob], examples: int) -> Tensor | None:
    """(K R, outputs) what is added to the outputs of each example; None if nothing is."""
    offsets = [job.output_offset for job in jobs if job.output_offset is not None]
    if not offsets:
        return None
    none = torch.zeros_like(offsets[0])
    rows = [none if job.output_offset is None else job.output_offset for job in jobs]
    return torch.stack(rows).repeat_interleave(examples, dim=0)


@contextmanager
def _kept_outputs(model: nn.Module) -> Iterator[list[Tensor]]:
    """What the model itself says in forward passes, in turn."""
    outputs: list[Tensor] = []
    watch = model.register_forward_hook(lambda _, __, output: outputs.append(output.detach()))
    try:
        yield outputs
    finally:
        watch.remove()
