"""From a configuration to everything a run in this process needs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fibecfed.config import Config, config_hash, settle
from fibecfed.data import FederatedData, build_data, columns_of, load_splits
from fibecfed.federation import Device, DeviceSide, DeviceStore, MemoryStore, Server, ServerState, Site, Transport
from fibecfed.methods import FederatedAveraging, method_class, resolve, tuning
from fibecfed.models import Pretrained, load_pretrained
from fibecfed.runtime.evaluation import Evaluation, ResidentEvaluator
from fibecfed.runtime.in_process import InProcessTransport
from fibecfed.seeding import torch_seed
from fibecfed.tasks import Task, task_kind
from fibecfed.training import SequentialExecutor, torch_device
from fibecfed.tuning import Layout, pooling_of, trainable_tensors


class Evaluator(Protocol):
    """Judges a run by both protocols."""

    global_is_mean_of_devices: bool

    def __call__(self, state: ServerState) -> Evaluation:
        """Metrics of the server's model and of the devices' own."""


@dataclass(frozen=True)
class Learner:
    """What is trained and how, before any data: the same on the server and on every device."""

    config: Config  # resolved
    pretrained: Pretrained
    model: nn.Module
    layout: Layout
    method: FederatedAveraging
    initial: Mapping[str, Tensor]  # every trainable parameter before training

    def site(self, data: FederatedData, store: DeviceStore) -> Site:
        """What a process needs to run devices on this data."""
        executor = SequentialExecutor(self.model, self.layout, data.task, data.train, self.config)
        return Site(self.config, data, executor, store, self.initial)


@dataclass(frozen=True)
class Experiment:
    """A run that is ready to start."""

    config: Config
    pretrained: Pretrained
    model: nn.Module
    layout: Layout
    data: FederatedData
    method: FederatedAveraging
    site: Site
    server: Server
    evaluate: Evaluator
    start: ServerState

    @property
    def devices_here(self) -> bool:
        """Whether the devices' states lie where this process can read them."""
        return True

    def device(self, number: int, state: ServerState) -> Device:
        """A device as it is after a stage."""
        return Device(self.site, number, state.device_versions.get(number, 0))

    def states_lost(self, state: ServerState) -> dict[int, str]:
        """The devices whose accepted state is gone, and why."""
        devices = (self.device(number, state) for number in self.method.personal_devices(state))
        return {device.number: device.state_lost for device in devices if device.state_lost is not None}

    def description(self) -> dict[str, Any]:
        """What task.json says beside an adapter."""
        return describe_adapter(self.config, self.pretrained, self.data.task)

    def data_summary(self) -> dict[str, Any]:
        """Where the data came from, how many examples there are, what was cut, and what a user should know of it."""
        data = self.data
        return {
            "origin": data.origin,
            "train_examples": len(data.train),
            "held_out_examples": len(data.held_out),
            "validation_examples": len(data.validation_rows),
            "truncated_examples": data.train.truncated + data.held_out.truncated,
            "tokens_cut": data.train.tokens_cut + data.held_out.tokens_cut,
            "held_out_in_training": data.shared,
            "notes": list(data.notes),
        }

    def partition(self) -> dict[str, Any]:
        """Who holds how much of which of the task's groups."""
        data = self.data
        return {
            "devices": data.devices.devices,
            "names": list(data.devices.names) if data.devices.names else None,
            "labels": list(data.task.output_names),
            "train": data.group_counts().tolist(),
            "held_out": data.held_out_group_counts().tolist(),
        }


def assemble(config: Config, store: DeviceStore | None = None, transport: Transport | None = None) -> Experiment:
    """Load data and model, wire devices and server. Raises InputError for anything the user must fix.

    ``transport`` None keeps the devices in this thread. Sets torch's thread count to ``runtime.threads``, since
    gradients depend on it.
    """
    config = resolve(config)
    torch_device(config.runtime.device)
    splits = load_splits(config)
    config = settle(config, splits.sites)
    learner = learner_of(config, task_kind(config).of(splits.train.label_names).outputs)
    method = learner.method
    pretrained = learner.pretrained
    data = build_data(config, splits, pretrained.tokenizer, method.pooled_data, pretrained.vocabulary)
    site = learner.site(data, store or MemoryStore())
    carrier = transport or InProcessTransport(DeviceSide(method, site))
    return Experiment(
        config=config,
        pretrained=pretrained,
        model=learner.model,
        layout=learner.layout,
        data=data,
        method=method,
        site=site,
        server=Server(config, method, carrier, data.devices.devices, config_hash(config)),
        evaluate=ResidentEvaluator(method, site, method.global_is_mean_of_devices),
        start=method.init(learner.initial),
    )


def learner_of(config: Config, outputs: int) -> Learner:
    """Backbone, tuning, head and method of a resolved configuration. Raises InputError; sets torch's threads."""
    torch.set_num_threads(config.runtime.threads)
    seed, kind = torch_seed(config.seed, "model"), tuning(config)
    pretrained = load_pretrained(config.model, outputs, config.runtime.precision, seed, kind.positions(config))
    model = kind.attach(pretrained, outputs, config, seed)
    layout = kind.layout(model, pretrained.config)
    method = method_class(config.method)(config, layout)
    return Learner(config, pretrained, model, layout, method, trainable_tensors(model))


def describe_adapter(config: Config, pretrained: Pretrained, task: Task) -> dict[str, Any]:
    """What task.json says beside an adapter."""
    head, columns = config.model.head, columns_of(config)
    return {
        "task": task.kind,
        "labels": list(task.output_names),
        "outputs": task.outputs,
        "texts": [name for name in (columns.text, columns.text_pair) if name],  # the columns: one text, or a pair
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
