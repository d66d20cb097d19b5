"""One pass over a device's examples: difficulty, and everything else that initialization needs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from fibecfed.curriculum.fisher import FisherPass, FisherScorer
from fibecfed.data import TokenizedSet, evaluation_batches
from fibecfed.errors import InputError, RunFailed
from fibecfed.tasks import Batch, Task

ScoreKind = Literal["fisher", "fisher-model", "loss"]

OnGradients = Callable[[Mapping[str, Tensor]], None]  # parameter name -> gradient of a mini-batch's mean loss
OnNoiseGradient = Callable[[Batch, Tensor], None]  # the batch, and the (B, T, d) gradient of its summed loss


@dataclass(frozen=True)
class Scores:
    """Scores of n examples, in the order they were named."""

    difficulty: np.ndarray  # (n,) float64
    losses: np.ndarray  # (n,) float64, -log p of the examples' own targets
    sizes: tuple[tuple[int, int], ...]  # (B, T) of the batches that ran, for counting operations
    chances: np.ndarray | None = None  # (n, G) float32, what the model says of each group, if it was asked


def score(
    kind: ScoreKind,
    model: nn.Module,
    task: Task,
    data: TokenizedSet,
    indices: np.ndarray,
    names: Sequence[str],
    batch_size: int,
    *,
    first_block: nn.Module | None = None,
    on_gradients: OnGradients | None = None,
    on_noise_gradient: OnNoiseGradient | None = None,
    rng: np.random.Generator | None = None,
    with_chances: bool = False,
) -> Scores:
    """Score the examples at ``indices`` (n,) of a tokenised set with one pass over them, in evaluation mode.

    fisher: squared norm of each example's own gradient over the parameters ``names``; fisher-model: its mean over
    the model's own predictive distribution (one forward, C backward passes); loss: -log p, forward only unless a
    callback asks for gradients. One forward and one backward pass serve the scores and both callbacks:
    ``on_gradients`` gets each mini-batch's mean gradient (for a momentum Fisher), ``on_noise_gradient`` the gradient
    at the input of ``first_block``, the lowest transformer layer (for worst-case noise). Both use the true targets.

    Batches hold examples of like length, and run from short to long, or in an order drawn by ``rng``: give one
    where later mini-batches weigh more. The model is left as it was. ``with_chances``: of the same forward passes.
    Source: docs/method.md section 3: Fisher trace [P], the rest [D]. Raises InputError as ``FisherScorer``, and for a
    kind that does not exist; RunFailed for a score that is not finite.
    """
    if kind not in ("fisher", "fisher-model", "loss"):
        raise InputError(f"'{kind}' is no score of examples by a model; use fisher, fisher-model or loss.")
    if (on_noise_gradient is None) != (first_block is None):
        raise ValueError("the noise gradient needs a callback and the block it enters, both or neither")
    batches = list(evaluation_batches(np.arange(len(indices)), data.lengths[indices], batch_size))
    if rng is not None:
        batches = [batches[i] for i in rng.permutation(len(batches))]
    device = next(model.parameters()).device
    difficulty, losses = np.empty(len(indices)), np.empty(len(indices))
    chances = np.empty((len(indices), task.group_count), np.float32) if with_chances else None
    sizes: list[tuple[int, int]] = []
    forward_only = kind == "loss" and on_gradients is None and on_noise_gradient is None
    scorer = None if forward_only else FisherScorer(model, names, first_block)
    with _evaluating(model), scorer or nullcontext(), _watching(model, task, chances is not None) as said:
        for positions in batches:
            said.clear()
            batch = data.batch(indices[positions]).to(device)
            sizes.append((len(batch), batch.input_ids.shape[1]))
            if scorer is None:
                with torch.no_grad():
                    losses[positions] = task.losses(model, batch).double().cpu().numpy()
            else:
                found = scorer.score_model(task, batch) if kind == "fisher-model" else scorer.score(task, batch)
                losses[positions] = found.losses.double().cpu().numpy()
                difficulty[positions] = found.difficulty.numpy()
                _report(found, batch, on_gradients, on_noise_gradient)
            if chances is not None:  # a batch that had to be passed again, one by one, counts as that
                chances[positions] = torch.cat(said)[-len(positions) :].numpy()
    if kind == "loss":
        difficulty = losses.copy()
    _require_finite(difficulty, losses, indices)
    return Scores(difficulty, losses, tuple(sizes), chances)


@contextmanager
def _watching(model: nn.Module, task: Task, wanted: bool) -> Iterator[list[Tensor]]:
    """Fills a list with the chances of each forward pass of the model."""
    said: list[Tensor] = []
    if not wanted:
        yield said
        return
    handle = model.register_forward_hook(lambda _, __, outputs: said.append(task.chances(outputs.detach()).cpu()))
    try:
        yield said
    finally:
        handle.remove()


def _report(
    found: FisherPass, batch: Batch, on_gradients: OnGradients | None, on_noise_gradient: OnNoiseGradient | None
) -> None:
    if on_gradients is not None:
        on_gradients({name: gradient / len(batch) for name, gradient in found.gradients.items()})
    if on_noise_gradient is not None:
        if found.embedding_gradient is None:
            raise InputError("The loss does not depend on the input of the lowest layer; choose another noise.")
        on_noise_gradient(batch, found.embedding_gradient)


def _require_finite(difficulty: np.ndarray, losses: np.ndarray, indices: np.ndarray) -> None:
    bad = np.flatnonzero(~(np.isfinite(difficulty) & np.isfinite(losses)))
    if len(bad):
        first = bad[0]
        raise RunFailed(
            f"Training example {indices[first] + 1} has difficulty {difficulty[first]} and loss {losses[first]}; "
            "the model has diverged, lower training.learning_rate."
        )


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
