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
from fibecfed.tasks import HEAD_BIAS, HEAD_WEIGHT
from fibecfed.tuning import Layout

_ALL_LAYERS = {"layers": "all", "rows": "dense"}


class RandomPace(FibecFed):
    """fedavg-lora on FibecFed's pacing over one random nested order."""

    name: ClassVar[str] = "random-pace"
    place: ClassVar[int] = 100
    is_control: ClassVar[bool] = True
    paper: ClassVar[str] = "control"
    trains: ClassVar[str] = "as fedavg-lora, on a growing random part"
    sends: ClassVar[str] = "as fedavg-lora"
    parts: ClassVar[Mapping[str, Mapping[str, Any]]] = {"curriculum": {"score": "random"}, "sharing": _ALL_LAYERS}


class RandomSubset(FibecFed):
    """fedavg-lora on as many examples as FibecFed, drawn afresh each round."""

    name: ClassVar[str] = "random-subset"
    place: ClassVar[int] = 110
    is_control: ClassVar[bool] = True
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
    is_control: ClassVar[bool] = True
    paper: ClassVar[str] = "control"
    trains: ClassVar[str] = "as fedavg-lora, on a growing part of low loss"
    sends: ClassVar[str] = "as fedavg-lora"
    parts: ClassVar[Mapping[str, Mapping[str, Any]]] = {"curriculum": {"score": "loss"}, "sharing": _ALL_LAYERS}


class LocalHead(FibecFed):
    """fedavg-lora whose head stays on its device."""

    name: ClassVar[str] = "fedavg+local-head"
    place: ClassVar[int] = 80
    is_control: ClassVar[bool] = True
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
    is_control: ClassVar[bool] = True
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
    is_control: ClassVar[bool] = True
    paper: ClassVar[str] = "control"
    sends: ClassVar[str] = "as fedavg-lora; label counts once"
    has_prior: ClassVar[bool] = True


class FedavgPlus(FederatedAveraging):
    """fedavg-lora with the parts that need no local layers: corrected loss, closed-form start, fitted own heads."""

    name: ClassVar[str] = "fedavg-plus"
    place: ClassVar[int] = 72
    is_control: ClassVar[bool] = True
    paper: ClassVar[str] = "control"
    trains: ClassVar[str] = "as fedavg-lora; each device fits a head of its own, without a round"
    sends: ClassVar[str] = "as fedavg-lora; sums for the first head once"
    parts: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "training": {"loss": "prior_corrected"},
        "model": {"head_init": "class_means"},
        "personal": {"head": "fitted"},
    }


class FedRod(FederatedAveraging):
    """Fed-RoD (Chen and Chao, ICLR 2022): beside the shared head each device trains one of its own.

    The shared head and LoRA learn from the prior-corrected loss, in the place of the paper's balanced ones; the
    device's head, a residual on detached features, from plain cross-entropy, in the same forward pass. It starts at
    zero, with log(pi_k / pi) in its bias (project decision). The global model is fedavg-lora's with that loss.

    Bytes: as fedavg-lora. Trained: as fedavg-lora, and the second head.
    """

    name: ClassVar[str] = "fedrod"
    place: ClassVar[int] = 74
    is_control: ClassVar[bool] = True
    paper: ClassVar[str] = "Chen and Chao 2022"
    trains: ClassVar[str] = "as fedavg-lora, and a second head that stays on its device"
    sends: ClassVar[str] = "as fedavg-lora; label counts once"
    parts: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "training": {"loss": "prior_corrected"},
        "personal": {"head": "trained"},
    }


class HeadOnly(FederatedAveraging):
    """fedavg-plus without its rounds: what the frozen backbone and closed forms give."""

    name: ClassVar[str] = "head-only"
    place: ClassVar[int] = 65
    is_control: ClassVar[bool] = True
    paper: ClassVar[str] = "control"
    trains: ClassVar[str] = "nothing together; the server solves the head, each device fits its own"
    sends: ClassVar[str] = "sums, once"
    parts: ClassVar[Mapping[str, Mapping[str, Any]]] = FedavgPlus.parts

    def _prepare(self) -> None:
        if self.config.model.head_init == "random":
            raise InputError("method=head-only has no round, so model.head_init must be class_means or ridge.")

    def rounds(self) -> Sequence[Stage]:
        """None."""
        return ()


class FedavgFinetune(FederatedAveraging):
    """fedavg-lora, then every device trains the final model on its own data once and keeps it."""

    name: ClassVar[str] = "fedavg+finetune"
    place: ClassVar[int] = 90
    is_control: ClassVar[bool] = True
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

    def kept(self, device: Device, state: ServerState) -> dict[str, Tensor]:
        """Its own copy, once it has one."""
        local = device.state.local if device.state else {}
        return {**super().kept(device, state), **local}


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
    is_control: ClassVar[bool] = True
    paper: ClassVar[str] = "control"
    trains: ClassVar[str] = "nothing"
    sends: ClassVar[str] = "label counts, once"
    own_parameters = (HEAD_BIAS,)
    takes_own_head: ClassVar[bool] = False

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
        tensors = self.kept(device, state)
        return {**tensors, **most_frequent(device.group_counts, tensors[HEAD_WEIGHT])}


def most_frequent(counts: np.ndarray, weight: Tensor) -> dict[str, Tensor]:
    """Head tensors that say the label of the highest of the ``counts`` (C,) whatever the text."""
    share = torch.from_numpy((counts + 1) / (counts + 1).sum()).float()
    return {HEAD_WEIGHT: torch.zeros_like(weight), HEAD_BIAS: share.log()}


def _require_pooled(name: str, layout: Layout) -> None:
    if not {HEAD_WEIGHT, HEAD_BIAS} <= set(layout.names):
        raise InputError(f"method={name} needs model.head=pooled.")
