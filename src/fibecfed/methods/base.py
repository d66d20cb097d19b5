"""Federated averaging: the flow that every method inherits and changes in one place."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from fibecfed.config import Config
from fibecfed.data import training_batches
from fibecfed.errors import InputError
from fibecfed.federation import (
    AGGREGATORS,
    COSTS,
    Device,
    DeviceState,
    InfoSpec,
    Phase,
    Reply,
    Request,
    ServerState,
    Site,
    Sum,
    TensorSpec,
)
from fibecfed.methods import statistics
from fibecfed.seeding import torch_seed
from fibecfed.training import DeviceFailed, LocalResult, TrainJob, scheduled_rate
from fibecfed.tuning import Layout

STATISTICS = "statistics"
TRAIN = "train"


class FederatedAveraging:
    """Every round the sampled devices train what they got and the server averages what they return.

    FederatedAveraging of McMahan et al. 2017 (Algorithm 1), weighted by n_k, over the trainable
    parameters of a tuning. Subclasses say which parameters are ``shared``; the others stay on
    their device between rounds. A closed-form head or the prior-corrected loss puts one phase
    before the first round, in which devices send sums.
    """

    name: ClassVar[str] = "fedavg-lora"
    paper: ClassVar[str] = "McMahan et al. 2017; Hu et al. 2021"
    trains: ClassVar[str] = "LoRA of every layer, and the head"
    sends: ClassVar[str] = "all of it, both ways, every round"
    tuning: ClassVar[str] = "lora"
    tunings: ClassVar[tuple[str, ...]] = ()  # other kinds it can work with
    pooled_data: ClassVar[bool] = False
    global_is_mean_of_devices: ClassVar[bool] = False  # no server model worth judging
    parts: ClassVar[Mapping[str, Mapping[str, Any]]] = {}  # what keys left to the method stand for
    takes_parts: ClassVar[bool] = False  # whether curriculum.* and sharing.* mean anything
    sections: ClassVar[frozenset[str]] = frozenset()  # of the configuration, that only some methods use

    def __init__(self, config: Config, layout: Layout) -> None:
        self.config = config
        self.layout = layout
        self.keeps_device_state = False  # devices have models of their own
        self._sums = statistics.shapes(config, *self._head_shape())
        asked = config.curriculum.score not in (None, "none") or config.sharing.layers not in (None, "all")
        if asked and not self.takes_parts:
            raise InputError(
                f"method={self.name} has no curriculum and shares every layer; for curriculum.score or sharing.layers "
                "take method=fibecfed, where each part can be switched off."
            )

    def _head_shape(self) -> tuple[int, int]:
        """(d, C) of a pooled head; a head of another form has only its classes, if it has a bias."""
        shapes = {p.name: p.shape for p in self.layout if p.role == "head"}
        classes, hidden = (*shapes.get(statistics.HEAD_WEIGHT, (0, 0)),)[:2]
        return hidden, classes

    def shared(self, state: ServerState) -> tuple[str, ...]:
        """Names of the parameters that travel."""
        return self.layout.names

    def personal_devices(self, state: ServerState) -> Sequence[int]:
        """The devices with a model of their own, ascending."""
        return sorted(state.device_versions) if self.keeps_device_state else ()

    def personal(self, device: Device, state: ServerState) -> dict[str, Tensor]:
        """Every trainable parameter of a device's own model: what it would receive, and what it keeps."""
        return device.model({name: state.tensors[name] for name in self.shared(state)})

    # Server half

    def init(self, tensors: Mapping[str, Tensor]) -> ServerState:
        """The server's model starts where every device's does."""
        return ServerState(round=0, tensors=dict(tensors))

    def next_phase(self, state: ServerState) -> Phase | None:
        """The statistics, if they are needed; then rounds until there have been ``federation.rounds``."""
        if self._sums and STATISTICS not in state.info:
            return Phase(STATISTICS, 1, self.config.federation.devices, is_round=False)
        if state.round >= self.config.federation.rounds:
            return None
        return Phase(TRAIN, state.round + 1, self.config.federation.sampled)

    def is_closed(self, state: ServerState) -> bool:
        """Rounds can always follow."""
        return False

    def request(self, state: ServerState, phase: Phase, device: int) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        """The shared parameters; nothing for the statistics, which are taken of the model all start with."""
        if phase.name == STATISTICS:
            return {}, {}
        info: dict[str, Any] = {}
        if self.config.training.loss == "prior_corrected":
            info["label_counts"] = state.memory["label_counts"].tolist()
        return {name: state.tensors[name] for name in self.shared(state)}, info

    def accumulator(self, state: ServerState, phase: Phase) -> Any:
        """As federation.aggregation says; sums are sums."""
        return Sum() if phase.name == STATISTICS else AGGREGATORS[self.config.federation.aggregation]()

    def expected(self, state: ServerState, phase: Phase) -> Mapping[str, TensorSpec]:
        """What was sent comes back."""
        if phase.name == STATISTICS:
            return self._sums
        return {p.name: TensorSpec(p.shape) for p in self.layout.only(self.shared(state))}

    def expected_info(self, state: ServerState, phase: Phase) -> Mapping[str, InfoSpec]:
        """The work behind a reply."""
        return COSTS

    def problem(self, state: ServerState, phase: Phase, reply: Reply) -> str | None:
        """Sums must belong together."""
        return statistics.problem(reply.tensors, reply.info["examples"]) if phase.name == STATISTICS else None

    def fold(self, accumulator: Any, reply: Reply) -> None:
        """Weighted by the device's number of training examples; sums are not weighted."""
        weight = 1.0 if reply.address.phase == STATISTICS else float(reply.info["examples"])
        accumulator.fold(reply.tensors, weight)

    def finish(self, state: ServerState, phase: Phase, accumulator: Any) -> ServerState:
        """The aggregate replaces the shared parameters; sums become a head."""
        result = accumulator.result()
        if phase.name != STATISTICS:
            return state.replace(round=phase.round, tensors={**state.tensors, **result})
        tensors = dict(state.tensors)
        if self.config.model.head_init != "random":
            tensors |= statistics.solve_head(self.config, result, state.tensors)
        return state.replace(
            tensors=tensors,
            info={**state.info, STATISTICS: True},
            memory={**state.memory, "label_counts": result["label_counts"]},
        )

    def midway(self, state: ServerState) -> ServerState:
        """A state as it is in most rounds, for estimates before a run: the statistics are there."""
        if not self._sums:
            return state
        counts = torch.ones(self._head_shape()[1], dtype=torch.float64)
        return state.replace(info={**state.info, STATISTICS: True}, memory={**state.memory, "label_counts": counts})

    def decisions(self, site: Site, state: ServerState) -> Mapping[str, Any]:
        """Nothing."""
        return {}

    # Device half

    def prepare(self, device: Device, request: Request) -> TrainJob | Reply:
        """Train every parameter on all local examples."""
        if request.address.phase == STATISTICS:
            if not self._sums:
                raise DeviceFailed("the server asks for sums that this configuration does not provide for")
            sums = statistics.device_sums(device, device.model({}), self._sums)
            return Reply(request.address, sums, self.costs(device))
        return self.job(device, request, device.indices)

    def job(self, device: Device, request: Request, indices: Any, **changes: Any) -> TrainJob:
        """Local training on the examples at ``indices``; ``changes`` are fields of the job that differ."""
        config, number = self.config, request.address.round
        batches = training_batches(
            indices,
            device.site.data.train.lengths[indices],
            config.training.batch_size,
            seed=config.seed,
            round=number,
            device=device.number,
            epochs=config.training.local_epochs,
            steps=config.training.local_steps,
        )
        fields: dict[str, Any] = {
            "device": device.number,
            "round": number,
            "tensors": device.model(request.tensors),
            "trained": dict.fromkeys(self.layout.names),
            "batches": batches,
            "learning_rate": scheduled_rate(config.training, number, config.federation.rounds),
            "seed": torch_seed(config.seed, "dropout", number, device.number),
            "optimizer_state": self.optimizer_state(device),
            "held": device.indices,
            "logit_offset": self.logit_offset(device, request),
        }
        return TrainJob(**fields | changes)

    def optimizer_state(self, device: Device) -> Mapping[str, Tensor]:
        """What the device kept of its optimizer, if training.keep_optimizer."""
        prefix = "optimizer/"
        memory = device.state.memory if device.state else {}
        return {name.removeprefix(prefix): t for name, t in memory.items() if name.startswith(prefix)}

    def logit_offset(self, device: Device, request: Request) -> Tensor | None:
        """log(pi_k / pi) for the prior-corrected loss, None otherwise."""
        if "label_counts" not in request.info:
            return None
        everyone = torch.tensor(request.info["label_counts"], dtype=torch.float64).numpy()
        return statistics.log_prior_ratio(device.label_counts, everyone)

    def conclude(self, device: Device, request: Request, result: LocalResult) -> tuple[Reply, DeviceState | None]:
        """Return what was received and trained; keep the rest of what was trained."""
        shared = {name: result.tensors[name] for name in request.tensors if name in result.tensors}
        local = {name: tensor for name, tensor in result.tensors.items() if name not in shared}
        memory = {f"optimizer/{name}": t for name, t in result.optimizer_state.items()}
        state = DeviceState(local=local, memory=memory) if local or memory else None
        return Reply(request.address, shared, self.costs(device, result)), state

    def costs(self, device: Device, result: LocalResult | None = None) -> dict[str, Any]:
        """What a reply says of the work behind it."""
        info: dict[str, Any] = {
            "examples": device.examples,
            "examples_scored": device.examples_scored,
            "operations": device.operations,
        }
        if result is not None:
            info |= {
                "examples_trained": result.examples,
                "operations": device.operations + result.operations,
                "loss": result.loss,
            }
        return info
