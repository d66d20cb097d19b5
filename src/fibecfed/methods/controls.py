"""The controls of every comparison: they decide whether a claim means anything (BASELINES.md, METHOD.md section 7).

A gain of a method over fedavg-lora that one of these has too is no gain of its idea.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from fibecfed.config import Config
from fibecfed.errors import InputError
from fibecfed.federation import Device, DeviceState, Phase, Reply, Request, ServerState, Sum, TensorSpec
from fibecfed.methods import statistics
from fibecfed.methods.base import STATISTICS, FederatedAveraging
from fibecfed.methods.fibecfed import FibecFed
from fibecfed.training import LocalResult, TrainJob
from fibecfed.tuning import Layout

FINETUNE, MAJORITY = "finetune", "majority"
_ALL_LAYERS = {"layers": "all", "rows": "dense"}


class RandomPace(FibecFed):
    """fedavg-lora on FibecFed's pacing over one random nested order."""

    name: ClassVar[str] = "random-pace"
    paper: ClassVar[str] = "control"
    trains: ClassVar[str] = "as fedavg-lora, on a growing random part"
    sends: ClassVar[str] = "as fedavg-lora"
    parts: ClassVar[Mapping[str, Mapping[str, Any]]] = {"curriculum": {"score": "random"}, "sharing": _ALL_LAYERS}


class RandomSubset(FibecFed):
    """fedavg-lora on as many examples as FibecFed, drawn afresh each round."""

    name: ClassVar[str] = "random-subset"
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
    paper: ClassVar[str] = "control"
    trains: ClassVar[str] = "as fedavg-lora, on a growing part of low loss"
    sends: ClassVar[str] = "as fedavg-lora"
    parts: ClassVar[Mapping[str, Mapping[str, Any]]] = {"curriculum": {"score": "loss"}, "sharing": _ALL_LAYERS}


class LocalHead(FibecFed):
    """fedavg-lora whose head stays on its device."""

    name: ClassVar[str] = "fedavg+local-head"
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
    paper: ClassVar[str] = "control"
    trains: ClassVar[str] = "nothing; the server solves the head"
    sends: ClassVar[str] = "feature sums, once"

    def __init__(self, config: Config, layout: Layout) -> None:
        _require_pooled(self.name, layout)
        super().__init__(
            dataclasses.replace(config, model=dataclasses.replace(config.model, head_init="ridge")), layout
        )

    def next_phase(self, state: ServerState) -> Phase | None:
        """The statistics, and nothing after them."""
        phase = super().next_phase(state)
        return phase if phase is not None and phase.name == STATISTICS else None


class FedavgPrior(FederatedAveraging):
    """fedavg-lora, its logits corrected on each device by log(pi_k / pi); nothing is trained for it."""

    name: ClassVar[str] = "fedavg+prior"
    paper: ClassVar[str] = "control"
    sends: ClassVar[str] = "as fedavg-lora; label counts once"

    def __init__(self, config: Config, layout: Layout) -> None:
        _require_pooled(self.name, layout)
        super().__init__(config, layout)
        self.keeps_device_state = True
        self._sums = {"label_counts": statistics.sums(self._head_shape()[1]), **self._sums}

    def personal_devices(self, state: ServerState) -> range:
        """Every device has label proportions, sampled or not."""
        return range(self.config.federation.devices)

    def personal(self, device: Device, state: ServerState) -> dict[str, Tensor]:
        """The server's model with the ratio in the head's bias."""
        tensors = super().personal(device, state)
        if "label_counts" in state.memory:
            everyone = state.memory["label_counts"].numpy()
            ratio = statistics.log_prior_ratio(device.label_counts, everyone)
            tensors[statistics.HEAD_BIAS] = tensors[statistics.HEAD_BIAS] + ratio
        return tensors


class FedavgFinetune(FederatedAveraging):
    """fedavg-lora, then every device trains the final model on its own data once and keeps it."""

    name: ClassVar[str] = "fedavg+finetune"
    paper: ClassVar[str] = "control"
    trains: ClassVar[str] = "as fedavg-lora; at the end every device its own copy"

    def __init__(self, config: Config, layout: Layout) -> None:
        super().__init__(config, layout)
        self.keeps_device_state = True

    def next_phase(self, state: ServerState) -> Phase | None:
        """The rounds, then one phase in which every device takes part."""
        phase = super().next_phase(state)
        if phase is None and not state.info.get("finetuned"):
            return Phase(FINETUNE, state.round, self.config.federation.devices, is_round=False, judged=True)
        return phase

    def is_closed(self, state: ServerState) -> bool:
        """Once devices have their own copies."""
        return bool(state.info.get("finetuned"))

    def expected(self, state: ServerState, phase: Phase) -> Mapping[str, TensorSpec]:
        return {} if phase.name == FINETUNE else super().expected(state, phase)

    def finish(self, state: ServerState, phase: Phase, accumulator: Any) -> ServerState:
        if phase.name == FINETUNE:
            return state.replace(info={**state.info, "finetuned": True})
        return super().finish(state, phase, accumulator)

    def prepare(self, device: Device, request: Request) -> TrainJob | Reply:
        if request.address.phase == FINETUNE:
            rate = self.config.training.learning_rate  # not the last round's, which may have fallen to a tenth
            return self.job(device, request, device.indices, learning_rate=rate)
        return super().prepare(device, request)

    def conclude(self, device: Device, request: Request, result: LocalResult) -> tuple[Reply, DeviceState | None]:
        if request.address.phase == FINETUNE:
            return Reply(request.address, {}, self.costs(device, result)), DeviceState(local=result.tensors)
        reply, state = super().conclude(device, request, result)
        return reply, state

    def personal(self, device: Device, state: ServerState) -> dict[str, Tensor]:
        """Its own copy, once it has one."""
        local = device.state.local if device.state else {}
        return {**super().personal(device, state), **local}


class DeviceMajority(FederatedAveraging):
    """Each device always says its most frequent label, the server everybody's."""

    name: ClassVar[str] = "device-majority"
    paper: ClassVar[str] = "control"
    trains: ClassVar[str] = "nothing"
    sends: ClassVar[str] = "label counts, once"

    def __init__(self, config: Config, layout: Layout) -> None:
        _require_pooled(self.name, layout)
        super().__init__(config, layout)
        self.keeps_device_state = True
        self._sums = {"label_counts": statistics.sums(self._head_shape()[1])}

    def next_phase(self, state: ServerState) -> Phase | None:
        """One exchange with every device."""
        return None if MAJORITY in state.info else Phase(MAJORITY, 1, self.config.federation.devices, is_round=False)

    def request(self, state: ServerState, phase: Phase, device: int) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        return {}, {}

    def accumulator(self, state: ServerState, phase: Phase) -> Any:
        return Sum()

    def expected(self, state: ServerState, phase: Phase) -> Mapping[str, TensorSpec]:
        return self._sums

    def problem(self, state: ServerState, phase: Phase, reply: Reply) -> str | None:
        return statistics.problem(reply.tensors, reply.info["examples"])

    def fold(self, accumulator: Any, reply: Reply) -> None:
        accumulator.fold(reply.tensors, 1.0)

    def finish(self, state: ServerState, phase: Phase, accumulator: Any) -> ServerState:
        head = self._constant(accumulator.result()["label_counts"].numpy())
        return state.replace(tensors={**state.tensors, **head}, info={**state.info, MAJORITY: True})

    def prepare(self, device: Device, request: Request) -> TrainJob | Reply:
        counts = torch.from_numpy(device.label_counts).double()
        return Reply(request.address, {"label_counts": counts}, self.costs(device))

    def personal_devices(self, state: ServerState) -> range:
        """Every device has a most frequent label."""
        return range(self.config.federation.devices)

    def personal(self, device: Device, state: ServerState) -> dict[str, Tensor]:
        """A head that looks at nothing and says the device's most frequent label."""
        return {**super().personal(device, state), **self._constant(device.label_counts)}

    def _constant(self, counts: np.ndarray) -> dict[str, Tensor]:
        hidden, classes = self._head_shape()
        share = torch.from_numpy((counts + 1) / (counts + 1).sum()).float()
        return {statistics.HEAD_WEIGHT: torch.zeros(classes, hidden), statistics.HEAD_BIAS: share.log()}


def _require_pooled(name: str, layout: Layout) -> None:
    if not {statistics.HEAD_WEIGHT, statistics.HEAD_BIAS} <= set(layout.names):
        raise InputError(f"method={name} needs model.head=pooled.")
