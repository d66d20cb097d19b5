"""A round: the sampled devices train what they get, the server averages what they return."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from fibecfed.config import Config
from fibecfed.data import steps_of_epoch, training_batches
from fibecfed.federation import (
    Content,
    Device,
    DeviceState,
    InfoSpec,
    Reply,
    Request,
    ServerState,
    TensorSpec,
    Work,
)
from fibecfed.methods.stages.exchange import Exchange
from fibecfed.methods.stages.second_head import OWN_HEAD, first_head, kept_head
from fibecfed.seeding import torch_seed
from fibecfed.tasks import task_kind
from fibecfed.training import LocalResult, TrainJob, scheduled_rate
from fibecfed.tuning import Layout

OPTIMIZER = "optimizer/"  # what a device keeps of its optimizer, in its state's memory

Shared = Callable[[ServerState], tuple[str, ...]]  # the parameters that travel


class Train(Exchange):
    """FederatedAveraging's round (McMahan et al. 2017, Algorithm 1), weighted by n_k, over the shared parameters.

    A method that trains in another way inherits it and changes the ``job``, or what goes around it.
    """

    name: ClassVar[str] = "train"
    is_round: ClassVar[bool] = True
    trains: ClassVar[bool] = True

    def __init__(self, config: Config, layout: Layout, shared: Shared, keeps_local: bool = False) -> None:
        super().__init__(config, layout)
        self.shared = shared
        self._keeps_local = keeps_local  # devices keep parameters that do not travel

    @property
    def keeps_state(self) -> bool:
        """What does not travel, and the optimizer where it is kept."""
        return self._keeps_local or self.config.training.keep_optimizer or self.config.personal.head == "trained"

    # Server half

    def due(self, state: ServerState) -> bool:
        """Until there have been ``federation.rounds``."""
        return state.round < self.config.federation.rounds

    def request(self, state: ServerState, device: int) -> Content:
        """The shared parameters; and what the task's loss has to know of everybody's examples."""
        info = task_kind(self.config).prior_info(self.config, state.memory)
        return {name: state.tensors[name] for name in self.shared(state)}, info

    def expected(self, state: ServerState) -> tuple[Mapping[str, TensorSpec], Mapping[str, InfoSpec]]:
        """What was sent comes back."""
        return {p.name: TensorSpec(p.shape) for p in self.layout.only(self.shared(state))}, super().expected(state)[1]

    def finish(self, state: ServerState, accumulator: Any) -> ServerState:
        """The aggregate replaces the shared parameters."""
        return state.replace(round=state.round + 1, tensors={**state.tensors, **accumulator.result()})

    # Device half

    def work(self, device: Device, request: Request) -> Work:
        """Train, keep what is local, return what is shared."""
        result: LocalResult = yield self.job(device, request)
        return device.keep(*self.conclude(device, request, result))

    def trained(self, request: Request) -> Iterable[str]:
        """The parameters that move: all of them."""
        return self.layout.names

    def steps(self, device: Device) -> int:
        """Optimizer steps of a round over all of a device's examples."""
        settings = self.config.training
        steps = settings.local_epochs * steps_of_epoch(device.examples, settings.batch_size)
        return steps if settings.local_steps is None else min(steps, settings.local_steps)

    def batches(
        self, device: Device, request: Request, indices: np.ndarray, steps: int | None = None
    ) -> list[np.ndarray]:
        """Of the examples at ``indices``; exactly ``steps`` over as many passes as they take, if that is given."""
        training = self.config.training
        return training_batches(
            indices,
            device.site.data.train.lengths[indices],
            training.batch_size,
            seed=self.config.seed,
            round=request.address.round,
            device=device.number,
            epochs=training.local_epochs,
            steps=training.local_steps,
            exactly=steps,
        )

    def job(self, device: Device, request: Request, indices: Any = None, **changes: Any) -> TrainJob:
        """Local training on the examples at ``indices``, all by default; ``changes`` are fields that differ."""
        config, number = self.config, request.address.round
        if "batches" not in changes:
            changes["batches"] = self.batches(device, request, device.indices if indices is None else indices)
        offset = device.site.data.task.output_offset(request.info, device.group_counts)
        fields: dict[str, Any] = {
            "device": device.number,
            "round": number,
            "tensors": device.model(request.tensors),
            "trained": dict.fromkeys(self.trained(request)),
            "learning_rate": scheduled_rate(config.training, number, config.federation.rounds),
            "seed": torch_seed(config.seed, "dropout", number, device.number),
            "optimizer_state": self.optimizer_state(device),
            "output_offset": offset,
            "own_head": self.own_head(device, offset),
        }
        return TrainJob(**fields | changes)

    def own_head(self, device: Device, offset: Tensor | None) -> dict[str, Tensor] | None:
        """With personal.head=trained what the device kept, or at first one that says its proportions."""
        if self.config.personal.head != "trained":
            return None
        return kept_head(device.state) or first_head(device.site.initial, offset)

    def optimizer_state(self, device: Device) -> Mapping[str, Tensor]:
        """What the device kept of its optimizer, if training.keep_optimizer."""
        memory = device.state.memory if device.state else {}
        return {name.removeprefix(OPTIMIZER): t for name, t in memory.items() if name.startswith(OPTIMIZER)}

    def conclude(self, device: Device, request: Request, result: LocalResult) -> tuple[Reply, DeviceState | None]:
        """Return what was received and trained; keep the rest of what was trained."""
        shared = {name: result.tensors[name] for name in request.tensors if name in result.tensors}
        local = {name: tensor for name, tensor in result.tensors.items() if name not in shared}
        memory = kept_memory(result)
        state = DeviceState(local=local, memory=memory) if local or memory else None
        return Reply(request.address, shared, self.costs(device, result)), state


class TrainWhatTravels(Train):
    """A round in which nothing moves but what is sent."""

    def trained(self, request: Request) -> Iterable[str]:
        return self.layout.only(request.tensors).names


def kept_memory(result: LocalResult) -> dict[str, Tensor]:
    """The optimizer's state and the device's own head, named as a device's state holds them."""
    optimizer = {f"{OPTIMIZER}{name}": t for name, t in result.optimizer_state.items()}
    return optimizer | {f"{OWN_HEAD}{name}": t for name, t in result.own_head.items()}
