"""From a configuration to everything a run in this process needs."""

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fibecfed.config import Config, config_hash, settle
from fibecfed.data import FederatedData, build_data, load_splits
from fibecfed.federation import DeviceSide, DeviceStore, MemoryStore, Server, Site, Transport
from fibecfed.methods import FederatedAveraging, method_class, resolve, tuning
from fibecfed.models import Pretrained, load_pretrained, with_zeros
from fibecfed.runtime.evaluation import ResidentEvaluator
from fibecfed.runtime.experiment import Experiment
from fibecfed.runtime.holdings import DevicesHere
from fibecfed.runtime.in_process import InProcessTransport
from fibecfed.seeding import torch_seed
from fibecfed.tasks import Task, task_kind
from fibecfed.training import (
    CohortExecutor,
    Resident,
    SequentialExecutor,
    SpreadExecutor,
    WorkerCount,
    torch_device,
    worker_count,
)
from fibecfed.tuning import Layout, trainable_tensors

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Learner:
    """What is trained and how, before any data: the same on the server and on every device."""

    config: Config  # resolved
    pretrained: Pretrained
    model: nn.Module
    layout: Layout
    method: FederatedAveraging
    initial: Mapping[str, Tensor]  # every trainable parameter before training

    def site(self, data: FederatedData, store: DeviceStore, workers: WorkerCount | None = None) -> Site:
        """What a process needs to run devices on this data; ``workers`` None: one after another."""
        answering = data.task.answering(self.config, self.pretrained.tokenizer)
        resident = Resident(self.model, self.layout, data.task, data.train, self.config, answering)
        if workers is not None and workers.together > 1:
            executor: SequentialExecutor = CohortExecutor(resident, workers.together)
        elif workers is not None and workers.number > 1:
            sets = [held for held in (data.held_out, data.own) if held is not None]
            executor = SpreadExecutor(resident, workers.number, sets)
        else:
            executor = SequentialExecutor(resident)
        return Site(self.config, data, executor, store, self.initial, answering)


def assemble(
    config: Config, store: DeviceStore | None = None, transport: Transport | None = None, weights: bool = True
) -> Experiment:
    """Load data and model, wire devices and server. Raises InputError for anything the user must fix.

    ``transport`` None keeps the devices in this thread. ``weights`` False: of the model only its shapes, to be counted
    (causal-lm). Sets torch's thread count to ``runtime.threads``, since gradients depend on it.
    """
    config = resolve(config)
    torch_device(config.runtime.device)
    splits = load_splits(config)
    config = settle(config, splits.sites)
    learner = learner_of(config, task_kind(config).of(splits.train.label_names), weights)
    method = learner.method
    pretrained = learner.pretrained
    data = build_data(config, splits, pretrained.tokenizer, method.pooled_data, pretrained.vocabulary)
    workers = worker_count(config, data, learner.model)
    _log.info("%s", workers)
    site = learner.site(data, store or MemoryStore(), workers)
    carrier = transport or InProcessTransport(DeviceSide(method, site))
    return Experiment(
        config=config,
        pretrained=pretrained,
        model=learner.model,
        layout=learner.layout,
        data=data,
        method=method,
        site=site,
        server=Server(
            config, method, carrier, data.devices.devices, config_hash(config), cpu_seconds=site.executor.cpu_seconds
        ),
        devices=DevicesHere(config, method, site),
        evaluate=ResidentEvaluator(method, site, method.global_is_mean_of_devices),
        start=method.init(learner.initial),
        workers=workers,
    )


def learner_of(config: Config, task: Task, weights: bool = True) -> Learner:
    """Backbone, tuning, head and method of a resolved configuration. Raises InputError; sets torch's threads."""
    torch.set_num_threads(config.runtime.threads)
    outputs = task.outputs
    seed, kind = torch_seed(config.seed, "model"), tuning(config)
    pretrained = load_pretrained(
        config.model, outputs, config.runtime.precision, seed, kind.positions(config), task.generates, weights
    )
    task.prepare(pretrained.tokenizer)
    model = kind.attach(pretrained, outputs, config, seed)
    if not weights:
        with_zeros(model)
    layout = dataclasses.replace(kind.layout(model, pretrained.config), outputs=outputs, groups=task.group_count)
    method = method_class(config.method)(config, layout)
    return Learner(config, pretrained, model, layout, method, trainable_tensors(model))
