"""Initialization, steps 1 and 2: devices score examples and layers, and send the layer scores (docs/method.md)."""

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from fibecfed.federation import (
    COSTS,
    OF_DEVICES,
    Content,
    Device,
    DeviceState,
    InfoSpec,
    Members,
    Reply,
    Request,
    ServerState,
    TensorSpec,
    WeightedMean,
    Work,
)
from fibecfed.methods.fibecfed_parts.initialization import Initialized, initialize
from fibecfed.methods.fibecfed_parts.layer_count import set_count
from fibecfed.methods.fibecfed_parts.plan import ONLY_INITIALIZED, Plan, noted
from fibecfed.methods.stages.exchange import Exchange
from fibecfed.sharing import rank_layers
from fibecfed.training import Job


@dataclass
class _Scores:
    mean: WeightedMean = field(default_factory=WeightedMean)
    told: dict[int, list[float]] = field(default_factory=dict)  # by device


class ScoreLayers(Exchange):
    """Devices initialise themselves with the shared model and send one score for each layer, nothing else."""

    name: ClassVar[str] = "initialize"

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan.config, plan.layout)
        self.plan = plan

    @property
    def keeps_state(self) -> bool:
        """Difficulty, rows, and the layers as they are."""
        return True

    # Server half

    def due(self, state: ServerState) -> bool:
        """Before the first round after the warm-up, if the layers are chosen by scores of devices."""
        rounds_left = state.round < self.config.federation.rounds
        return rounds_left and self.plan.layers_missing(state) and self.plan.asks_devices(state)

    def members(self, state: ServerState) -> Members:
        """Those of the next round, so that nobody else scores its examples; ``sharing.devices`` if that is set."""
        return Members(self.config.sharing.devices or self.config.federation.cohort_size, of_round=True)

    def request(self, state: ServerState, device: int) -> Content:
        """The shared model."""
        return self.plan.sent(state, device), {}

    def expected(self, state: ServerState) -> tuple[Mapping[str, TensorSpec], Mapping[str, InfoSpec]]:
        """One score a layer."""
        return {"layer_scores": TensorSpec((self.layout.layers,), torch.float64)}, COSTS

    def accumulator(self, state: ServerState) -> _Scores:
        return _Scores()

    def fold(self, accumulator: _Scores, reply: Reply) -> None:
        super().fold(accumulator.mean, reply)
        accumulator.told[reply.address.device] = reply.tensors["layer_scores"].tolist()

    def finish(self, state: ServerState, accumulator: _Scores) -> ServerState:
        """Step 3, where the number of layers is set: S^l = sum_k (n_k / n) s_k^l, the largest are the GAL."""
        met = list(accumulator.told)
        new = sorted(set(met) - state.device_versions.keys())
        state = noted(self.plan.met(state, met), **{ONLY_INITIALIZED: new})
        told = {"layer_scores": {str(device): scores for device, scores in accumulator.told.items()}}
        scores = accumulator.mean.result()["layer_scores"].tolist()
        state = noted(state, layer_scores=scores, order=list(rank_layers(scores)), **{OF_DEVICES: told})
        if isinstance(self.config.sharing.count, str):
            return state
        return self.plan.fixed(state, *set_count(self.config, self.layout.layers))

    # Device half

    def work(self, device: Device, request: Request) -> Work:
        """Difficulty and rows stay here; the layer scores go."""
        found = yield from initialized(self.plan, device, request, with_layer_scores=True)
        assert found.layer_scores is not None  # asked for
        tensors = {"layer_scores": torch.from_numpy(found.layer_scores)}
        return device.keep(Reply(request.address, tensors, self.costs(device)), found.state)


def initialized(
    plan: Plan, device: Device, request: Request, with_layer_scores: bool
) -> Generator[Job, Any, Initialized]:
    """Steps 1 and 5, beside what the device kept of the warm-up (a local head, its optimizer)."""
    model = device.model(request.tensors)
    found = yield from initialize(device, model, plan.config, plan.layout, with_layer_scores)
    if device.state is None:
        return found
    before = device.state
    state = DeviceState({**before.local, **found.state.local}, {**before.memory, **found.state.memory})
    return Initialized(state, found.layer_scores)
