"""After the last round, if sharing.average_local asks for it: the local layers are averaged once."""

from collections.abc import Mapping
from typing import Any, ClassVar

from fibecfed.federation import (
    COSTS,
    Content,
    Device,
    InfoSpec,
    Members,
    Reply,
    Request,
    ServerState,
    TensorSpec,
    WeightedMean,
)
from fibecfed.methods.fibecfed_parts.plan import Plan, noted
from fibecfed.methods.stages.exchange import Exchange
from fibecfed.training import DeviceFailed


class Merge(Exchange):
    """Every device that has local layers sends them; their mean completes the server's model."""

    name: ClassVar[str] = "merge"
    evaluated: ClassVar[bool] = True

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan.config, plan.layout)
        self.plan = plan

    # Server half

    def due(self, state: ServerState) -> bool:
        """Once, when the rounds are over, if any device has local layers."""
        return not state.info.get("merged") and bool(self.members(state).number)

    def members(self, state: ServerState) -> Members:
        """The devices with local layers; of the warm-up one may keep a second head or an optimizer, but no layers."""
        kept = set(state.device_versions)
        if self.plan.has_met_devices(state):
            kept &= set(state.info["met"])
        return Members(len(kept), tuple(sorted(kept)))

    def request(self, state: ServerState, device: int) -> Content:
        return {}, {"layers": state.info["layers"]}

    def expected(self, state: ServerState) -> tuple[Mapping[str, TensorSpec], Mapping[str, InfoSpec]]:
        """The layers that do not travel otherwise."""
        shared = set(self.plan.travelling(state.info["layers"]))
        return {p.name: TensorSpec(p.shape) for p in self.layout if p.name not in shared and p.layer is not None}, COSTS

    def accumulator(self, state: ServerState) -> WeightedMean:
        return WeightedMean()

    def finish(self, state: ServerState, accumulator: Any) -> ServerState:
        return noted(state, merged=True).replace(tensors={**state.tensors, **accumulator.result()})

    # Device half

    def answer(self, device: Device, request: Request) -> Reply:
        """The local layers. Raises DeviceFailed if they are lost."""
        if device.state_lost is not None:
            raise DeviceFailed(f"the state that held its local layers is {device.state_lost}")
        shared = set(self.plan.travelling(request.info["layers"]))
        local = {name: t for name, t in device.model({}).items() if name not in shared}
        return Reply(request.address, local, self.costs(device))
