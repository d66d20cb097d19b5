"""What a run needs of a model that is known by its config.json only: made-up results of work, and memory by count."""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fibecfed.config import Config
from fibecfed.curriculum import Scores
from fibecfed.errors import InputError
from fibecfed.models import activation_bytes, lacks_weights, resolve
from fibecfed.runtime import Experiment
from fibecfed.sharing import LayerChange
from fibecfed.tasks import task_kind
from fibecfed.training import ScoreJob, ScoreResult, TrainJob

_MOMENTS = {"adamw": 2}  # values that an optimizer keeps of each that trains, without momentum


@dataclass(frozen=True)
class CountedMemory:
    """Bytes that a device needs to train, by count. Not in it: what the program itself takes, and fragments."""

    weights: int
    trained: int  # values, gradients and what the optimizer keeps, in fp32
    activations: int  # of a forward pass over so many examples and tokens
    examples: int
    tokens: int

    @property
    def total(self) -> int:
        """Their sum."""
        return self.weights + self.trained + self.activations


def counted_only(config: Config) -> bool:
    """Whether the model is a language model's folder without weights, of which shapes are all that is known."""
    return task_kind(config).generates and lacks_weights(resolve(config.model)[0])


def made_up_result(experiment: Experiment, job: Any) -> ScoreResult:
    """What a scoring job without a model comes to: no example and no row is favoured.

    Raises InputError for other jobs, whose results decide what is sent.
    """
    if not isinstance(job, ScoreJob):
        raise InputError(
            f"method={experiment.config.method} with these settings needs the weights of the model before its messages "
            "are known; name a folder that has them."
        )
    count, layers = len(job.indices), experiment.layout.layers
    matrices = experiment.layout.only(p.name for p in experiment.layout if p.layer is not None)
    fisher = None if job.momentum is None else {p.name: torch.ones(p.shape) for p in matrices}
    change = None if job.noise is None else LayerChange(np.ones(layers), np.ones(layers), count)
    return ScoreResult(Scores(np.arange(count) + 1.0, np.ones(count), ()), fisher, change, 0.0)


def counted_memory(experiment: Experiment, job: TrainJob) -> CountedMemory:
    """What a device needs for a training job: batches of the usual size, of its longest examples."""
    config, model = experiment.config, experiment.model
    sizes = {id(p): p.numel() * p.element_size() for p in model.parameters() if not p.requires_grad}
    moving = {**(job.before.trained if job.before else {}), **job.trained}
    entries = sum(p.size for p in experiment.layout.only(moving))
    moments = _MOMENTS.get(config.training.optimizer or "adamw", 1 if config.training.momentum else 0)
    examples = config.training.micro_batch_size or config.training.batch_size
    tokens = int(experiment.data.train.lengths.max())
    activations = activation_bytes(model, examples, tokens, nullcontext)
    if config.training.gradient_checkpointing:  # the inputs of all layers, and all of one layer
        executor = experiment.site.executor
        activations = activation_bytes(model, examples, tokens, executor.training_mode) + activations // len(
            executor.blocks
        )
    return CountedMemory(sum(sizes.values()), entries * 4 * (2 + moments), activations, examples, tokens)
