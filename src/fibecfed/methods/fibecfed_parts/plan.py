"""What a configuration makes of FibecFed: which parts are on, how long the warm-up may be, what travels when."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import Tensor

from fibecfed.config import Config, SharingConfig
from fibecfed.errors import InputError
from fibecfed.federation import Device, Request, ServerState
from fibecfed.methods.fibecfed_parts.first_training import refuse_passes
from fibecfed.methods.fibecfed_parts.initialization import SCORED_BY_MODEL
from fibecfed.methods.fibecfed_parts.layer_count import ranked_layers, set_count
from fibecfed.sharing import fixed_count
from fibecfed.tasks import task_kind
from fibecfed.tuning import Layout

_SCORED_LAYERS = ("sensitivity", "gain", "consensus", "reset_loss")

ONLY_INITIALIZED = "only_initialized"  # in the server's info: devices that have a state but never trained

Layers = Sequence[int] | None  # the global aggregation layers; None while they are not fixed


class Plan:
    """Facts that every stage of FibecFed shares; it changes nothing. Raises InputError for parts that do not fit."""

    def __init__(self, config: Config, layout: Layout) -> None:
        self.config = config
        self.layout = layout
        sharing = config.sharing
        self.chooses_layers = sharing.layers not in (None, "all")
        self.has_curriculum = config.curriculum.score not in (None, "none")
        self.has_local_parts = self.chooses_layers or sharing.head == "local"
        self.is_off = not (self.has_local_parts or self.has_curriculum or sharing.freeze_a)
        if self.chooses_layers and not isinstance(sharing.count, str):
            assert sharing.count is not None  # resolved
            fixed_count(sharing.count, layout.layers)  # raises now, not after the warm-up
        if self.chooses_layers and sharing.layers == "consensus" and self.most_warm_up == 0:
            raise InputError("sharing.layers=consensus looks at the warm-up's updates; set warm_up.rounds above 0.")
        if config.curriculum.initialization == "training":
            refuse_passes(config)
        if self.has_curriculum and config.curriculum.cap == "auto" and config.curriculum.score not in SCORED_BY_MODEL:
            raise InputError(
                "curriculum.cap=auto reads the scores of a model; set curriculum.score=fisher, fisher-model or loss, "
                "or give the cap as a number."
            )
        if self.has_curriculum and config.curriculum.cap == "auto" and not task_kind(config).tells_groups:
            raise InputError(
                f"curriculum.cap=auto compares what the model says of an example with its group, and task.kind="
                f"{task_kind(config).kind} has no such groups; give the cap as a number."
            )
        blind = self.most_warm_up == 0 and not config.model.solves_head
        if self.has_curriculum and config.curriculum.cap == "auto" and blind:
            raise InputError(
                "curriculum.cap=auto needs a model that has learned something before it scores; set warm_up.rounds "
                "above 0, or solve the head with model.head_init."
            )
        if sharing.count != "sites" and sharing.least != SharingConfig().least:
            raise InputError("sharing.least only applies to sharing.count=sites.")
        if sharing.count == "lossless" and sharing.radius is None and self.most_warm_up == 0:
            raise InputError("sharing.count=lossless without a warm-up needs sharing.radius.")

        if sharing.anchored and not (self.chooses_layers and sharing.rows != "none"):
            raise InputError(
                "sharing.anchored needs layers that train on their device; set sharing.layers to something but all and "
                "sharing.rows to something but none, or leave it off."
            )
        if sharing.local_rate == "participation" and not (self.chooses_layers and sharing.rows != "none"):
            raise InputError(
                "sharing.local_rate is the learning rate of layers that train on their device; set sharing.layers to "
                "something but all and sharing.rows to something but none, or leave it off."
            )
        if sharing.local_rate == "participation" and config.training.schedule == "constant":
            raise InputError(
                "sharing.local_rate says what a falling learning rate falls with, and training.schedule=constant has "
                "none; set training.schedule to linear or cosine, or leave sharing.local_rate off."
            )
        if sharing.anchored and config.curriculum.refresh:
            raise InputError("curriculum.refresh needs the gradients that sharing.anchored leaves out; choose one.")

    # The warm-up

    @property
    def most_warm_up(self) -> int:
        """The most rounds a warm-up may take."""
        config = self.config
        if not self.chooses_layers and not self.has_curriculum:
            return 0
        if config.warm_up.rounds is not None:
            return min(config.warm_up.rounds, config.federation.rounds)
        if config.model.solves_head or config.federation.rounds == 1:
            return 0
        return max(1, int(config.warm_up.most * config.federation.rounds))

    def is_warm(self, state: ServerState) -> bool:
        """Whether the warm-up is over."""
        return self.most_warm_up == 0 or "warm_up" in state.info

    # The global aggregation layers

    def asks_devices(self, state: ServerState) -> bool:
        """Whether layers are chosen by scores that are not there yet."""
        return self.config.sharing.layers in _SCORED_LAYERS and "layer_scores" not in state.info

    def layers_missing(self, state: ServerState) -> bool:
        """Whether it is time to fix the layers."""
        return self.chooses_layers and self.is_warm(state) and "layers" not in state.info

    def without_devices(self, state: ServerState) -> ServerState:
        """Fix the layers where no device has to be asked for their scores or their number."""
        if not self.layers_missing(state) or self.asks_devices(state) or isinstance(self.config.sharing.count, str):
            return state
        return self.fixed(state, *set_count(self.config, self.layout.layers))

    def fixed(self, state: ServerState, count: int, reason: str) -> ServerState:
        """Step 3: the N layers of highest score are the GAL."""
        order = ranked_layers(self.config, self.layout.layers, state.info.get("order"))
        return noted(state, layers=sorted(order[:count]), count_reason=reason)

    # What travels, and what is whose

    def travelling(self, layers: Layers) -> tuple[str, ...]:
        """Every parameter while the layers are not fixed; then the GAL's and the head's."""
        sharing = self.config.sharing
        names = []
        for p in self.layout:
            if p.layer is None:
                travels = sharing.head != "local"
            else:
                travels = layers is None or p.layer in layers
                travels = travels and not (sharing.freeze_a and p.role == "lora_A")
            if travels:
                names.append(p.name)
        return tuple(names)

    def local(self, layers: Layers) -> tuple[str, ...]:
        """What does not travel and is a device's own (a frozen A of a shared layer is not)."""
        travelling = set(self.travelling(layers))
        return tuple(
            p.name
            for p in self.layout
            if p.name not in travelling and (p.layer is None or (layers is not None and p.layer not in layers))
        )

    def sent(self, state: ServerState, device: int) -> dict[str, Tensor]:
        """What travels; a device that was never met gets the warm-up's values of the other layers too, once."""
        names = set(self.travelling(state.info.get("layers")))
        if self.has_met_devices(state) and device not in state.info["met"]:
            names |= {p.name for p in self.layout if p.layer is not None}
        return {p.name: state.tensors[p.name] for p in self.layout if p.name in names}

    def has_met_devices(self, state: ServerState) -> bool:
        """Whether it matters which devices were met: local layers start from the warm-up's."""
        return self.most_warm_up > 0 and self.chooses_layers and self.is_warm(state)

    def met(self, state: ServerState, devices: Collection[int], lost: Collection[int] = ()) -> ServerState:
        """Note the devices that answered. One that ``lost`` its state gets the warm-up's values again.

        If it was sent them this time, because it had not been met, it has them.
        """
        if not self.has_met_devices(state):
            return state
        known = set(state.info["met"])
        return noted(state, met=sorted((known - set(lost)) | (set(devices) - (known & set(lost)))))

    def lacks_layers(self, device: Device, request: Request) -> bool:
        """Whether a device has lost the local layers that it should start from, and was not sent them again."""
        if self.most_warm_up == 0 or not self.chooses_layers or device.state_lost is None:
            return False
        own = set(self.local(request.info["layers"]))
        return any(p.name in own and p.name not in request.tensors for p in self.layout if p.layer is not None)

    def trained(self, state: ServerState, devices: Collection[int]) -> ServerState:
        """Note the devices that trained a model of their own."""
        waiting = state.info.get(ONLY_INITIALIZED)
        if not waiting:
            return state
        return noted(state, **{ONLY_INITIALIZED: sorted(set(waiting) - set(devices))})

    def all_sent(self, tensors: Mapping[str, Tensor], layers: Layers) -> bool:
        """Whether all that travels was sent."""
        return set(self.travelling(layers)) <= tensors.keys()


def noted(state: ServerState, **info: Any) -> ServerState:
    """A state that remembers something more."""
    return state.replace(info={**state.info, **info})
