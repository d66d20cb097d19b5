"""Federated averaging: what every method inherits, and says differently where it differs."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from fibecfed.config import Config
from fibecfed.errors import InputError
from fibecfed.federation import Device, ServerState, Site, Stage
from fibecfed.methods.fallback import refuse_fallback, stands
from fibecfed.methods.once import OncePerState
from fibecfed.methods.own_head import OwnHead
from fibecfed.methods.own_settings import own_settings
from fibecfed.methods.stages import Statistics, Train, summed
from fibecfed.tasks import HEAD_WEIGHT, task_kind
from fibecfed.tuning import Layout


class FederatedAveraging:
    """Every round the sampled devices train what they got and the server averages what they return.

    FederatedAveraging of McMahan et al. 2017 (Algorithm 1), weighted by n_k, over the trainable
    parameters of a tuning. Subclasses say which parameters are ``shared``; the others stay on
    their device between rounds. A closed-form head or the prior-corrected loss puts one stage
    before the first round, in which devices send sums.
    """

    name: ClassVar[str] = "fedavg-lora"
    place: ClassVar[int] = 20  # in listings; a class that says none of its own comes last, by name
    is_control: ClassVar[bool] = False  # whether a gain has to be measured against it
    paper: ClassVar[str] = "McMahan et al. 2017; Hu et al. 2021"
    trains: ClassVar[str] = "LoRA of every layer, and the head"
    sends: ClassVar[str] = "all of it, both ways, every round"
    tuning: ClassVar[str] = "lora"
    tunings: ClassVar[tuple[str, ...]] = ()  # other kinds it can work with
    pooled_data: ClassVar[bool] = False
    global_is_mean_of_devices: ClassVar[bool] = False  # no server model worth evaluating
    own_parameters: tuple[str, ...] = ()  # all that a device's own model has of its own; (): it may be any
    has_prior: ClassVar[bool] = False  # own models have log(pi_k / pi) in their bias, whatever the loss
    takes_own_head: ClassVar[bool] = True  # whether personal.head and the device's proportions mean anything
    parts: ClassVar[Mapping[str, Mapping[str, Any]]] = {}  # what keys left to the method stand for
    takes_parts: ClassVar[bool] = False  # whether curriculum.* and sharing.* mean anything
    sections: ClassVar[frozenset[str]] = frozenset()  # of the configuration, that only some methods use
    settings: ClassVar[type[Any] | None] = None  # a pydantic dataclass: the keys under `settings`, all with defaults
    round_stage: ClassVar[type[Train]] = Train  # what happens in a round

    def __init__(self, config: Config, layout: Layout) -> None:
        self.config = config
        self.layout = layout
        self.own: Any = own_settings(config, type(self))  # an instance of ``settings``
        self.keeps_device_state = False  # devices have models of their own
        self.keeps_local = False  # because a round trains parameters that do not travel
        asked = config.curriculum.score not in (None, "none") or config.sharing.layers not in (None, "all")
        if asked and not self.takes_parts:
            raise InputError(
                f"method={self.name} has no curriculum and shares every layer; for curriculum.score or sharing.layers "
                "take method=fibecfed, where each part can be switched off."
            )
        self._prepare()
        self.own_head = self._own_head()
        has_own = self.keeps_device_state or self.own_head.kind != "none"
        has_shared = self.takes_own_head and not (self.global_is_mean_of_devices or self.pooled_data)
        refuse_fallback(config, self.name, has_shared, has_own)
        self._stands = OncePerState[bool]()
        if self.own_head.is_on:
            self.own_parameters = () if self.keeps_device_state else self.own_head.names
            self.keeps_device_state = True
        self.stages: tuple[Stage, ...] = (*self.before_rounds(), *self.rounds(), *self.after_rounds())
        compression = config.federation.compression
        if compression != "none" and (self.global_is_mean_of_devices or not any(s.is_round for s in self.stages)):
            raise InputError(
                f"method={self.name} has no rounds in which parameters travel, so federation.compression={compression} "
                "would change nothing; set it to none."
            )
        if self.own_head.kind == "trained" and not any(stage.trains for stage in self.stages):
            raise InputError(f"method={self.name} trains nothing, so there is no personal.head=trained; take fitted.")

    def _prepare(self) -> None:
        """What a subclass needs before its stages are made. Raises InputError for settings that do not fit."""

    def _own_head(self) -> OwnHead:
        """What own models have in their heads. Raises InputError where a setting asks for what cannot be."""
        config = self.config
        if self.takes_own_head and not self.pooled_data:
            return OwnHead(config, self.layout, self.name, self.has_prior)
        if config.personal.head not in (None, "none"):
            raise InputError(
                f"method={self.name} has no model of the devices' together that personal.head={config.personal.head} "
                "could start from; set it to none."
            )
        plain = dataclasses.replace(config.training, loss="cross_entropy")
        return OwnHead(dataclasses.replace(config, training=plain), self.layout, self.name, False)

    # Which stages, in order

    def before_rounds(self) -> Sequence[Stage]:
        """The sums, if they are needed."""
        shapes = self.sums()
        return (Statistics(self.config, self.layout, shapes),) if shapes else ()

    def rounds(self) -> Sequence[Stage]:
        """Rounds, all alike."""
        return (self.round_stage(self.config, self.layout, self.shared, self.keeps_local),)

    def after_rounds(self) -> Sequence[Stage]:
        """Nothing."""
        return ()

    def sums(self) -> Mapping[str, tuple[int, ...]]:
        """The shapes of the sums that devices send before the first round."""
        return {**self.own_head.sums(), **task_kind(self.config).sum_shapes(self.config, *self.head_shape())}

    def head_shape(self) -> tuple[int, int]:
        """(d, outputs) of a pooled head; of another form only its outputs, if it has a bias."""
        shapes = {p.name: p.shape for p in self.layout if p.role == "head"}
        outputs, hidden = (*shapes.get(HEAD_WEIGHT, (0, 0)),)[:2]
        return hidden, outputs

    # Which parameters are whose

    def shared(self, state: ServerState) -> tuple[str, ...]:
        """Names of the parameters that travel."""
        return self.layout.names

    def personal_devices(self, state: ServerState) -> Sequence[int]:
        """The devices with a model of their own, ascending."""
        if self.own_head.has_prior:  # whoever was sampled
            return range(self.config.federation.device_count)
        return sorted(state.device_versions) if self.keeps_device_state else ()

    def personal(self, device: Device, state: ServerState) -> dict[str, Tensor]:
        """Every trainable parameter of a device's own model: what it has, with a head of its own if there is one.

        With a fallback the server's, where that is no worse to the device.
        """
        kept = self.kept(device, state)
        own = self.own_head.in_place(device, state, kept)
        return own if self._stays(device, state, kept, own) else self._fallback(device, state)

    def _fallback(self, device: Device, state: ServerState) -> dict[str, Tensor]:
        return self.own_head.with_proportions(device, state, state.tensors)

    def _stays(self, device: Device, state: ServerState, kept: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> bool:
        if not self.falls_back:
            return True
        return self._stands.get(device, state, kept, lambda: stands(device, own, self._fallback(device, state)))

    @property
    def falls_back(self) -> bool:
        """Whether a device's own model has to be better than the server's."""
        return self.config.personal.fallback == "held-out"

    def fallen_back(self, site: Site, state: ServerState) -> list[int]:
        """The devices that take the server's model in the place of their own, ascending.

        Not counted as cost. Devices elsewhere are left out.
        """
        if not self.falls_back or not len(site.data.train):
            return []
        self.look_ahead(site, state)
        found = []
        for number in self.personal_devices(state):
            device = Device(site, number, state.device_versions.get(number, 0))
            if device.state_lost is None:
                kept = self.kept(device, state)
                if not self._stays(device, state, kept, self.own_head.in_place(device, state, kept)):
                    found.append(number)
        return found

    def look_ahead(self, site: Site, state: ServerState) -> None:
        """Before ``personal`` of many devices of one process: what they need of the server's model, computed once."""
        if not self.fits_own_heads:
            return
        heads_only = bool(self.own_parameters)
        alike = [n for n in self.personal_devices(state) if heads_only or n not in state.device_versions]
        self.own_head.look_ahead(site, alike, state)

    def kept(self, device: Device, state: ServerState) -> dict[str, Tensor]:
        """What a device would receive, over what it keeps; the server's model where it keeps nothing."""
        if not (device.state_version and device.state and device.state.local):
            return dict(state.tensors)  # a second head or an optimizer may be all that it keeps, as after a warm-up
        return device.model({name: state.tensors[name] for name in self.shared(state)})

    @property
    def fits_own_heads(self) -> bool:
        """Whether each device fits a head of its own to the model it is given."""
        return self.own_head.kind == "fitted"

    def own_strengths(self, site: Site, state: ServerState) -> dict[str, float | None]:
        """By device the strength of the pull that its fitted head chose, None for no fit; {} without such heads.

        Not counted as cost. Devices elsewhere are left out.
        """
        if not self.fits_own_heads or not len(site.data.train):
            return {}
        self.look_ahead(site, state)
        everyone = (Device(site, n, state.device_versions.get(n, 0)) for n in self.personal_devices(state))
        devices = [device for device in everyone if device.state_lost is None]
        return {str(d.number): self.own_head.strength(d, state, self.kept(d, state)) for d in devices}

    # From the first state to the last

    def is_closed(self, state: ServerState) -> bool:
        """Rounds can always follow."""
        return False

    def init(self, tensors: Mapping[str, Tensor]) -> ServerState:
        """The server's model starts where every device's does."""
        return ServerState(round=0, tensors=dict(tensors))

    def midway(self, state: ServerState) -> ServerState:
        """A state as it is in most rounds, for estimates before a run: the statistics are there."""
        sums = self.sums()
        return summed(state, self.config, sums) if sums else state

    def decisions(self, site: Site, state: ServerState) -> Mapping[str, Any]:
        """Nothing."""
        return {}
