"""From a configuration to everything a run in this process needs."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fibecfed.config import Config, config_hash
from fibecfed.data import FederatedData, build_data, load_splits
from fibecfed.federation import Device, DeviceStore, MemoryStore, Server, ServerState, Site
from fibecfed.methods import method_class, resolve, tuning
from fibecfed.models import Pretrained, load_pretrained
from fibecfed.runtime.evaluation import ResidentEvaluator
from fibecfed.runtime.in_process import InProcessTransport
from fibecfed.seeding import torch_seed
from fibecfed.training import SequentialExecutor, torch_device
from fibecfed.tuning import Layout, pooling_of, trainable_tensors


@dataclass(frozen=True)
class Experiment:
    """A run that is ready to start."""

    config: Config
    pretrained: Pretrained
    model: nn.Module
    layout: Layout
    data: FederatedData
    site: Site
    server: Server
    evaluate: ResidentEvaluator
    start: ServerState

    def device(self, number: int, state: ServerState) -> Device:
        """A device as it is after a phase."""
        return Device(self.site, number, state.device_versions.get(number, 0))

    def description(self) -> dict[str, Any]:
        """What task.json says beside an adapter."""
        head = self.config.model.head
        return {
            "task": "classification",
            "labels": list(self.data.task.labels),
            "tuning": self.config.tuning,
            "head": head,
            "pooling": pooling_of(self.config, self.pretrained.decoder) if head == "pooled" else None,
            "max_length": min(self.config.data.max_length, self.pretrained.tokenizer.model_max_length),
            "pad_token": self.pretrained.tokenizer.pad_token,
            "base_model": self.pretrained.name,
            "base_sha256": self.pretrained.sha256,
        }


def assemble(config: Config, store: DeviceStore | None = None) -> Experiment:
    """Load data and model, wire devices and server. Raises InputError for anything the user must fix.

    Sets torch's thread count to ``runtime.threads``, since gradients depend on it.
    """
    config = resolve(config)
    torch.set_num_threads(config.runtime.threads)
    method_type = method_class(config.method)
    torch_device(config.runtime.device)
    splits = load_splits(config)
    seed = torch_seed(config.seed, "model")
    kind = tuning(config)
    labels, reserved = len(splits.train.label_names), kind.positions(config)
    pretrained = load_pretrained(config.model, labels, config.runtime.precision, seed, reserved)
    data = build_data(config, splits, pretrained.tokenizer, method_type.pooled_data)
    model = kind.attach(pretrained, data.task.outputs, config, seed)
    layout = kind.layout(model, pretrained.config)
    initial = trainable_tensors(model)
    method = method_type(config, layout)
    executor = SequentialExecutor(model, layout, data.task, data.train, config)
    site = Site(config, method, data, executor, store or MemoryStore(), initial)
    server = Server(config, method, InProcessTransport(site), data.devices.devices, config_hash(config))
    evaluator = ResidentEvaluator(site, method_type.global_is_mean_of_devices)
    return Experiment(config, pretrained, model, layout, data, site, server, evaluator, method.init(initial))
