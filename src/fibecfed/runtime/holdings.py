"""Where the devices of a run are, and what this process knows of what they hold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from fibecfed.config import Config
from fibecfed.data import MOST_LISTED
from fibecfed.federation import Device, Method, ServerState, Site


@dataclass(frozen=True)
class Holdings:
    """What the devices hold. None: only they know."""

    dataset: str  # what results call it
    devices: int  # K, whether they have joined or not
    train_sizes: Mapping[int, int]  # training examples by device; {} where there are too many to be listed
    train_examples: int
    held_out_examples: int
    validation_examples: int | None = None
    truncated_examples: int | None = None
    tokens_cut: int | None = None
    held_out_in_training: int | None = None  # held-out examples whose text is also a training text
    names: Sequence[str] | None = None  # of the devices, where they have some
    train: np.ndarray | None = None  # (K, G) training examples of each group
    held_out: np.ndarray | None = None  # (K, G) held-out ones
    domains: Sequence[str] | None = None  # which of several joined data sets each device's rows are of
    habits: Mapping[int, tuple[int, int]] | None = None  # by device, the two groups it takes for each other
    listed: bool = True  # False: there are more than MOST_LISTED devices, and what each holds is left out


class Devices(Protocol):
    """The devices of a run, seen from the process of its server."""

    @property
    def here(self) -> bool:
        """Whether their states lie where this process can read them."""

    def states_lost(self, state: ServerState) -> dict[int, str]:
        """Those whose accepted state is gone, and why."""

    def holdings(self) -> Holdings:
        """What is known of their data at this moment."""


@dataclass(frozen=True)
class DevicesHere:
    """Devices that this process runs itself."""

    config: Config
    method: Method
    site: Site

    @property
    def here(self) -> bool:
        return True

    def states_lost(self, state: ServerState) -> dict[int, str]:
        found = (
            (n, Device(self.site, n, state.device_versions.get(n, 0)).state_lost)
            for n in self.method.personal_devices(state)
        )
        return {number: reason for number, reason in found if reason is not None}

    def holdings(self) -> Holdings:
        data = self.site.data
        listed = data.devices.devices <= MOST_LISTED
        return Holdings(
            dataset=self.config.dataset,
            devices=data.devices.devices,
            train_sizes=dict(enumerate(data.devices.sizes.tolist())) if listed else {},
            train_examples=len(data.train),
            held_out_examples=len(data.held_out),
            validation_examples=len(data.validation_rows),
            truncated_examples=data.train.truncated + data.held_out.truncated,
            tokens_cut=data.train.tokens_cut + data.held_out.tokens_cut,
            held_out_in_training=data.shared,
            names=data.devices.names or None,
            train=data.group_counts() if listed else None,
            held_out=data.held_out_group_counts() if listed else None,
            domains=data.devices.domains,
            habits=None if data.habits is None else data.habits.swaps,
            listed=listed,
        )
