"""A run that is ready to start, wherever its devices are."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from fibecfed.config import Config
from fibecfed.data import MOST_LISTED, FederatedData, text_columns
from fibecfed.federation import Device, Server, ServerState, Site
from fibecfed.methods import FederatedAveraging
from fibecfed.models import Pretrained
from fibecfed.runtime.evaluation import Evaluator
from fibecfed.runtime.holdings import Devices
from fibecfed.tasks import Task
from fibecfed.training import WorkerCount
from fibecfed.tuning import Layout, pooling_of


@dataclass(frozen=True)
class Experiment:
    """A run that is ready to start. Where the devices are is said by ``devices`` and nowhere else."""

    config: Config
    pretrained: Pretrained
    model: nn.Module
    layout: Layout
    data: FederatedData  # as this process has it
    method: FederatedAveraging
    site: Site
    server: Server
    devices: Devices
    evaluate: Evaluator
    start: ServerState
    workers: WorkerCount | None = None  # that devices of this process share; None: they are elsewhere

    def device(self, number: int, state: ServerState) -> Device:
        """A device of this process as it is after a stage."""
        return Device(self.site, number, state.device_versions.get(number, 0))

    def description(self) -> dict[str, Any]:
        """What task.json says beside an adapter."""
        return describe_adapter(self.config, self.pretrained, self.data.task)

    def data_summary(self) -> dict[str, Any]:
        """Where the data came from, how many examples there are, what was cut, and what a user should know of it.

        None stands for what only the devices know.
        """
        held = self.devices.holdings()
        return {
            "origin": self.data.origin,
            "dataset": held.dataset,
            "train_examples": held.train_examples,
            "held_out_examples": held.held_out_examples,
            "validation_examples": held.validation_examples,
            "truncated_examples": held.truncated_examples,
            "tokens_cut": held.tokens_cut,
            "held_out_in_training": held.held_out_in_training,
            "notes": list(self.data.notes),
        }

    def partition(self) -> dict[str, Any]:
        """Who holds how much, and of which of the task's groups. None stands for what only the devices know.

        Of more than MOST_LISTED devices it is not said of each, and "not_listed" says so.
        """
        held = self.devices.holdings()
        why = f"What each holds is not written for more than {MOST_LISTED:,} devices; fibecfed partition shows some."
        return {
            "devices": held.devices,
            "names": None if held.names is None else list(held.names),
            "domains": None if held.domains is None else list(held.domains),
            "habits": None if held.habits is None else {str(k): list(pair) for k, pair in held.habits.items()},
            **self.data.task.named(),
            "train_sizes": {str(device): examples for device, examples in held.train_sizes.items()},
            "train": None if held.train is None else held.train.tolist(),
            "held_out": None if held.held_out is None else held.held_out.tolist(),
            **({} if held.listed else {"not_listed": why}),
        }


def describe_adapter(config: Config, pretrained: Pretrained, task: Task) -> dict[str, Any]:
    """What task.json says beside an adapter."""
    head = None if task.generates else config.model.head
    return {
        "task": task.kind,
        **task.named(),
        "outputs": task.outputs,
        "texts": list(text_columns(config)),  # of a classifier: one text, or a pair
        "tuning": config.tuning,
        "head": head,
        "pooling": pooling_of(config, pretrained.decoder) if head == "pooled" else None,
        "max_length": min(config.data.max_length, pretrained.tokenizer.model_max_length),
        "pad_token": pretrained.tokenizer.pad_token,
        "base_model": pretrained.name,
        "base_package": pretrained.package,
        "base_settings": {"dtype": pretrained.dtype, **pretrained.settings},
        "base_sha256": pretrained.sha256,
    }
