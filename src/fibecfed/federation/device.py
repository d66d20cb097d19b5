"""A device: its data and its state."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor

from fibecfed.config import Config
from fibecfed.data import FederatedData
from fibecfed.federation.messages import Reply
from fibecfed.federation.state import DeviceState
from fibecfed.federation.store import DeviceStore, StateLost
from fibecfed.seeding import stream
from fibecfed.tasks import Answering
from fibecfed.training import SequentialExecutor

KEPT_OUT = 5  # one example of so many judges the device's own model, if there is a fallback
FEWEST_TO_JUDGE = 20  # examples


@dataclass(frozen=True)
class Site:
    """What one process holds for the devices it runs: shared by all of them, never sent."""

    config: Config
    data: FederatedData
    executor: SequentialExecutor
    store: DeviceStore
    initial: Mapping[str, Tensor]  # every trainable parameter before training, the same everywhere
    answering: Answering | None = None  # judges answers in evaluation; None: only outputs are judged

    @cached_property
    def residuals(self) -> DeviceStore:
        """What compression left out of the devices' replies, with versions of its own (federation/compression.py)."""
        return self.store.beside("residual")


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

    def residual(self, version: int) -> tuple[dict[str, Tensor], str | None]:
        """What compression left out of its replies so far; {} and why, where the accepted version is lost."""
        try:
            state = self.site.residuals.load(self.number, version)
        except StateLost as lost:
            return {}, lost.reason
        return dict(state.memory) if state else {}, None

    @cached_property
    def indices(self) -> np.ndarray:
        """Positions of the training examples that it uses, ascending."""
        held = self.site.data.devices.indices(self.number)
        return np.setdiff1d(held, self.kept_out, assume_unique=True) if len(self.kept_out) else held

    @cached_property
    def kept_out(self) -> np.ndarray:
        """Positions of the training examples that its own model is judged on, ascending; none without a fallback.

        A fifth, in proportion to the groups; none of fewer than 20. Source: docs/method.md section 8 [D].
        """
        data, config = self.site.data, self.site.config
        held = data.devices.indices(self.number)
        if config.personal.fallback != "held-out" or len(held) < FEWEST_TO_JUDGE:
            return held[:0]
        order = stream(config.seed, "kept out for the fallback", self.number).permutation(held)
        order = order[np.argsort(data.train.groups[order], kind="stable")]
        return np.sort(order[KEPT_OUT // 2 :: KEPT_OUT])

    @property
    def group_counts(self) -> np.ndarray:
        """(G,) of the training examples that it uses, those of each of the task's groups."""
        data = self.site.data
        return np.bincount(data.train.groups[self.indices], minlength=data.task.group_count)

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

    def keep(self, reply: Reply, state: DeviceState | None) -> Reply:
        """Store a state, if there is one, and let the reply name its version."""
        if state is None:
            return reply
        version = self.site.store.save(self.number, state, self.state_version)
        return dataclasses.replace(reply, address=dataclasses.replace(reply.address, state_version=version))
