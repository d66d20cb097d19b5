"""The controls of every comparison: they decide whether a claim means anything.

A gain of a method over fedavg-lora that one of these has too is no gain of its idea (docs/baselines.md,
docs/method.md section 7).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from fibecfed.errors import InputError
from fibecfed.federation import Device, ServerState, Stage
from fibecfed.methods.base import FederatedAveraging
from fibecfed.methods.fibecfed import FibecFed
from fibecfed.methods.stages import Finetune, Statistics
from fibecfed.tasks import HEAD_BIAS, HEAD_WEIGHT, log_prior_ratio
from fibecfed.tuning import Layout

_ALL_LAYERS = {"layers": "all", "rows": "dense"}


class RandomPace(FibecFed):
    """fedavg-lora on FibecFed's pacing over one random nested order."""

    name: ClassVar[str] = "random-pace"
    place: ClassVar[int] = 100
    paper: ClassVar[str] = "control"
    trains: ClassVar[str] = "as fedavg-lora, on a growing random part"
    sends: ClassVar[str] = "as fedavg-lora"
    parts: ClassVar[Mapping[str, Mapping[str, Any]]] = {"curriculum": {"score": "random"}, "sharing": _ALL_LAYERS}


class RandomSubset(FibecFed):
    """fedavg-lora on as many examples as FibecFed, drawn afresh each round."""

    name: ClassVar[str] = "random-subset"
    place: ClassVar[int] = 110
    paper: ClassVar[str] = "control"
    trains: ClassVar[str] = "as fedavg-lora, on a growing part drawn anew each round"
    sends: ClassVar[str] = "as fedavg-lora"
    parts: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "curriculum": {"score": "random", "fresh": True},
        "sharing": _ALL_LAYERS,
    }


class LossOrder(FibecFed):
    """fedavg-lora with a curriculum by loss instead of Fisher information."""

    name: ClassVar[str] = "loss-order"
    place: ClassVar[int] = 120
    paper: ClassVar[str] = "control"
    trains: ClassVar[str] = "as fedavg-lora, on a growing part of low loss"
    sends: ClassVar[str] = "as fedavg-lora"
    parts: ClassVar[Mapping[str, Mapping[str, Any]]] = {"curriculum": {"score": "loss"}, "sharing": _ALL_LAYERS}


class LocalHead(FibecFed):
    """fedavg-lora whose head stays on its device."""

    name: ClassVar[str] = "fedavg+local-head"
    place: ClassVar[int] = 80
    paper: ClassVar[str] = "control"
    trains: ClassVar[str] = "as fedavg-lora"
    sends: ClassVar[str] = "LoRA of every layer; the head stays"
    parts: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "curriculum": {"score": "none"},
        "sharing": {**_ALL_LAYERS, "head": "local"},
    }


class RidgeHead(FederatedAveraging):
    """A head solved in closed form on the frozen backbone from one exchange; no rounds."""

    name: ClassVar[str] = "ridge-head"
    place: ClassVar[int] = 60
    paper: ClassVar[str] = "control"
    trains: ClassVar[str] = "nothing; the server solves the head"
    sends: ClassVar[str] = "feature sums, once"

    def _prepare(self) -> None:
        _require_pooled(self.name, self.layout)
        self.config = dataclasses.replace(self.config, model=dataclasses.replace(self.config.model, head_init="ridge"))

    def rounds(self) -> Sequence[Stage]:
        """None."""
        return ()


class FedavgPrior(FederatedAveraging):
    """fedavg-lora, its logits corrected on each device by log(pi_k / pi); nothing is trained for it."""

    name: ClassVar[str] = "fedavg+prior"
    place: ClassVar[int] = 70
    paper: ClassVar[str] = "control"
    sends: ClassVar[str] = "as fedavg-lora; label counts once"
    own_parameters: ClassVar[tuple[str, ...]] = (HEAD_BIAS,)

    def _prepare(self) -> None:
        _require_pooled(self.name, self.layout)
        self.keeps_device_state = True

    def sums(self) -> Mapping[str, tuple[int, ...]]:
        """Label counts in any case."""
        return {"label_counts": (self.head_shape()[1],), **super().sums()}

    def personal_devices(self, state: ServerState) -> range:
        """Every device has label proportions, sampled or not."""
        return range(self.config.federation.device_count)

    def personal(self, device: Device, state: ServerState) -> dict[str, Tensor]:
        """The server's model with the ratio in the head's bias."""
        tensors = super().personal(device, state)
        if "label_counts" in state.memory:
            everyone = state.memory["label_counts"].numpy()
            tensors[HEAD_BIAS] = tensors[HEAD_BIAS] + log_prior_ratio(device.group_counts, everyone)
        return tensors


class FedavgFinetune(FederatedAveraging):
    """fedavg-lora, then every device trains the final model on its own data once and keeps it."""

    name: ClassVar[str] = "fedavg+finetune"
    place: ClassVar[int] = 90
    paper: ClassVar[str] = "control"
    trains: ClassVar[str] = "as fedavg-lora; at the end every device its own copy"

    def _prepare(self) -> None:
        self.keeps_device_state = True

    def after_rounds(self) -> Sequence[Stage]:
        """One exchange in which every device takes part."""
        return (Finetune(self.config, self.layout, self.shared),)

    def is_closed(self, state: ServerState) -> bool:
        """Once devices have their own copies."""
        return bool(state.info.get("finetuned"))

    def personal(self, device: Device, state: ServerState) -> dict[str, Tensor]:
        """Its own copy, once it has one."""
        local = device.state.local if device.state else {}
        return {**super().personal(device, state), **local}


class _Majority(Statistics):
    """One exchange with every device: label counts become a head that looks at nothing."""

    name: ClassVar[str] = "majority"

    def due(self, state: ServerState) -> bool:
        return self.name not in state.info

    def finish(self, state: ServerState, accumulator: Any) -> ServerState:
        head = most_frequent(accumulator.result()["label_counts"].numpy(), state.tensors[HEAD_WEIGHT])
        return state.replace(tensors={**state.tensors, **head}, info={**state.info, self.name: True})


class DeviceMajority(FederatedAveraging):
    """Each device always says its most frequent label, the server everybody's."""

    name: ClassVar[str] = "device-majority"
    place: ClassVar[int] = 50
    paper: ClassVar[str] = "control"
    trains: ClassVar[str] = "nothing"
    sends: ClassVar[str] = "label counts, once"
    own_parameters: ClassVar[tuple[str, ...]] = (HEAD_BIAS,)

    def _prepare(self) -> None:
        _require_pooled(self.name, self.layout)
        self.keeps_device_state = True

    def before_rounds(self) -> Sequence[Stage]:
        return (_Majority(self.config, self.layout, {"label_counts": (self.head_shape()[1],)}),)

    def rounds(self) -> Sequence[Stage]:
        """None."""
        return ()

    def personal_devices(self, state: ServerState) -> range:
        """Every device has a most frequent label."""
        return range(self.config.federation.device_count)

    def personal(self, device: Device, state: ServerState) -> dict[str, Tensor]:
        """A head that looks at nothing and says the device's most frequent label."""
        tensors = super().personal(device, state)
        return {**tensors, **most_frequent(device.group_counts, tensors[HEAD_WEIGHT])}


def most_frequent(counts: np.ndarray, weight: Tensor) -> dict[str, Tensor]:
    """Head tensors that say the label of the highest of the ``counts`` (C,) whatever the text."""
    share = torch.from_numpy((counts + 1) / (counts + 1).sum()).float()
    return {HEAD_WEIGHT: torch.zeros_like(weight), HEAD_BIAS: share.log()}


def _require_pooled(name: str, layout: Layout) -> None:
    if not {HEAD_WEIGHT, HEAD_BIAS} <= set(layout.names):
        raise InputError(f"method={name} needs model.head=pooled.")
