"""A device: its data, its state, and the two halves of its work around the executor."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor

from fibecfed.config import Config
from fibecfed.data import FederatedData
from fibecfed.federation.messages import Reply, Request
from fibecfed.federation.method import Method
from fibecfed.federation.state import DeviceState
from fibecfed.federation.store import DeviceStore, StateLost
from fibecfed.federation.validation import STATE_LOST
from fibecfed.training import LocalResult, SequentialExecutor, TrainJob


@dataclass(frozen=True)
class Site:
    """What one process holds for the devices it runs: shared by all of them, never sent."""

    config: Config
    method: Method
    data: FederatedData
    executor: SequentialExecutor
    store: DeviceStore
    initial: Mapping[str, Tensor]  # every trainable parameter before training, the same everywhere


class Device:
    """One device, built when it is sampled."""

    def __init__(self, site: Site, number: int, state_version: int) -> None:
        self.site = site
        self.number = number
        self.state_version = state_version
        self.examples_scored = 0
        self.operations = 0.0  # beside training

    @cached_property
    def state(self) -> DeviceState | None:
        """The accepted state; None if there never was one or it is lost."""
        return self._loaded[0]

    @property
    def state_lost(self) -> str | None:
        """Why the accepted state is lost ("missing", "damaged", "foreign"); None if it is not."""
        return self._loaded[1]

    @cached_property
    def _loaded(self) -> tuple[DeviceState | None, str | None]:
        try:
            state = self.site.store.load(self.number, self.state_version)
        except StateLost as lost:
            return None, lost.reason
        shapes = {name: tensor.shape for name, tensor in self.site.initial.items()}
        if state is not None and any(shapes.get(name) != tensor.shape for name, tensor in state.local.items()):
            return None, "foreign"
        return state, None

    @cached_property
    def indices(self) -> np.ndarray:
        """Positions of its training examples, ascending."""
        return self.site.data.devices.indices(self.number)

    @property
    def label_counts(self) -> np.ndarray:
        """(C,) its training examples of each label."""
        data = self.site.data
        return np.bincount(data.train.labels[self.indices], minlength=data.task.outputs)

    @property
    def examples(self) -> int:
        """n_k."""
        return len(self.indices)

    def count_scored(self, examples: int, operations: float) -> None:
        """Note passes that train nothing; their cost goes into the next reply."""
        self.examples_scored += examples
        self.operations += operations

    def model(self, received: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Every trainable parameter here: initial values, over them what is local, over them what was received."""
        local = self.state.local if self.state else {}
        return {**self.site.initial, **local, **received}

    def prepare(self, request: Request) -> TrainJob | Reply:
        """The local training a request asks for, or the reply if it asks for none."""
        work = self.site.method.prepare(self, request)
        return self._with_loss(work) if isinstance(work, Reply) else work

    def finish(self, request: Request, result: LocalResult) -> Reply:
        """Keep the new state, if the method has any, and answer."""
        reply, state = self.site.method.conclude(self, request, result)
        return self._with_loss(self.keep(reply, state))

    def _with_loss(self, reply: Reply) -> Reply:
        """A reply that names the loss of the state, if it was lost."""
        if self.state_lost is None:
            return reply
        return dataclasses.replace(reply, info={**reply.info, STATE_LOST: self.state_lost})

    def keep(self, reply: Reply, state: DeviceState | None) -> Reply:
        """Store a state and let the reply name its version."""
        if state is None:
            return reply
        version = self.site.store.save(self.number, state, self.state_version)
        return dataclasses.replace(reply, address=dataclasses.replace(reply.address, state_version=version))


def answer(site: Site, request: Request) -> Reply:
    """All of a device's work for one request. Raises DeviceFailed if its training cannot be used."""
    device = Device(site, request.address.device, request.address.state_version)
    work = device.prepare(request)
    if isinstance(work, Reply):
        return work
    (result,) = site.executor.train([work])
    return device.finish(request, result)
