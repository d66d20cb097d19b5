"""A round in which part of the model stays on its device (docs/method.md section 2, steps 6 to 9)."""

from fibecfed.federation import Device, DeviceState, Reply, Request, ServerState
from fibecfed.methods.fibecfed_parts.plan import Layers, Plan
from fibecfed.methods.stages.train import OPTIMIZER, Train, kept_memory
from fibecfed.training import LocalResult


class PartlyShared(Train):
    """What the plan lets travel is averaged; the rest is its device's own."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan.config, plan.layout, self._travelling)
        self.plan = plan

    @property
    def keeps_state(self) -> bool:
        """A head that stays, and the optimizer where it is kept."""
        return super().keeps_state or self.config.sharing.head == "local"

    def _travelling(self, state: ServerState) -> tuple[str, ...]:
        return self.plan.travelling(state.info.get("layers"))

    def conclude(self, device: Device, request: Request, result: LocalResult) -> tuple[Reply, DeviceState | None]:
        """Step 8: upload what is shared; the local layers, their rows and the difficulty stay."""
        layers: Layers = request.info.get("layers")
        after = {**device.model(request.tensors), **result.tensors}
        local = {name: after[name] for name in self.plan.local(layers)}
        memory = dict(device.state.memory) if device.state else {}
        memory = {name: t for name, t in memory.items() if not name.startswith(OPTIMIZER)} | kept_memory(result)
        state = DeviceState(local=local, memory=memory) if local or memory else None
        shared = {name: after[name] for name in self.plan.travelling(layers)}
        return Reply(request.address, shared, self.costs(device, result)), state
