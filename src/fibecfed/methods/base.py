"""Federated averaging: the flow that every method inherits and changes in one place."""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from fibecfed.config import Config
from fibecfed.data import training_batches
from fibecfed.federation import (
    AGGREGATORS,
    Aggregator,
    Device,
    DeviceState,
    Phase,
    Reply,
    Request,
    ServerState,
)
from fibecfed.seeding import torch_seed
from fibecfed.training import LocalResult, TrainJob, scheduled_rate
from fibecfed.tuning import Layout


class FederatedAveraging:
    """Every round the sampled devices train what they got and the server averages what they return.

    FederatedAveraging of McMahan et al. 2017 (Algorithm 1), weighted by n_k, over the trainable
    parameters of a tuning. Subclasses say which parameters are ``shared``; the others stay on
    their device between rounds.
    """

    name: ClassVar[str] = "fedavg-lora"
    paper: ClassVar[str] = "McMahan et al. 2017; Hu et al. 2021"
    trains: ClassVar[str] = "LoRA of every layer, and the head"
    sends: ClassVar[str] = "all of it, both ways, every round"
    tuning: ClassVar[str] = "lora"
    pooled_data: ClassVar[bool] = False
    keeps_device_state: ClassVar[bool] = False
    global_is_mean_of_devices: ClassVar[bool] = False  # no server model worth judging

    def __init__(self, config: Config, layout: Layout) -> None:
        self.config = config
        self.layout = layout

    def shared(self, state: ServerState) -> tuple[str, ...]:
        """Names of the parameters that travel."""
        return self.layout.names

    # Server half

    def init(self, tensors: Mapping[str, Tensor]) -> ServerState:
        """The server's model starts where every device's does."""
        return ServerState(round=0, tensors=dict(tensors))

    def next_phase(self, state: ServerState) -> Phase | None:
        """Rounds until there have been ``federation.rounds``."""
        if state.round >= self.config.federation.rounds:
            return None
        return Phase("train", state.round + 1, self.config.federation.sampled)

    def request(self, state: ServerState, phase: Phase, device: int) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        """The shared parameters."""
        return {name: state.tensors[name] for name in self.shared(state)}, {}

    def accumulator(self, state: ServerState, phase: Phase) -> Aggregator:
        """As federation.aggregation says."""
        return AGGREGATORS[self.config.federation.aggregation]()

    def expected(self, state: ServerState, phase: Phase) -> Mapping[str, tuple[int, ...]]:
        """What was sent comes back."""
        return {p.name: p.shape for p in self.layout.only(self.shared(state))}

    def fold(self, accumulator: Aggregator, reply: Reply) -> None:
        """Weighted by the device's number of training examples."""
        accumulator.fold(reply.tensors, float(reply.info["examples"]))

    def finish(self, state: ServerState, phase: Phase, accumulator: Aggregator) -> ServerState:
        """The aggregate replaces the shared parameters."""
        return state.replace(round=phase.round, tensors={**state.tensors, **accumulator.result()})

    # Device half

    def prepare(self, device: Device, request: Request) -> TrainJob | Reply:
        """Train every parameter on all local examples."""
        config, number = self.config, request.address.round
        indices = device.indices
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
        return TrainJob(
            device=device.number,
            round=number,
            tensors=device.model(request.tensors),
            trained=dict.fromkeys(self.layout.names),
            batches=batches,
            learning_rate=scheduled_rate(config.training, number, config.federation.rounds),
            seed=torch_seed(config.seed, "dropout", number, device.number),
            optimizer_state=device.state.memory if device.state else {},
        )

    def conclude(self, device: Device, request: Request, result: LocalResult) -> tuple[Reply, DeviceState | None]:
        """Return what was received, trained; keep the rest."""
        shared = {name: result.tensors[name] for name in request.tensors}
        local = {name: tensor for name, tensor in result.tensors.items() if name not in shared}
        info = {
            "examples": device.examples,
            "examples_trained": result.examples,
            "operations": result.operations,
            "loss": result.loss,
        }
        state = None
        if local or result.optimizer_state:
            state = DeviceState(local=local, memory=result.optimizer_state)
        return Reply(request.address, shared, info), state
