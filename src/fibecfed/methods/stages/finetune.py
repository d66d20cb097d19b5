"""After the last round: every device trains the final model on its own examples and keeps it."""

from collections.abc import Mapping
from typing import Any, ClassVar

from fibecfed.federation import (
    COSTS,
    Device,
    DeviceState,
    InfoSpec,
    Members,
    Reply,
    Request,
    ServerState,
    TensorSpec,
)
from fibecfed.methods.stages.train import Train, kept_memory
from fibecfed.training import LocalResult, TrainJob


class Finetune(Train):
    """One local round of all devices, of which nothing comes back."""

    name: ClassVar[str] = "finetune"
    is_round: ClassVar[bool] = False
    evaluated: ClassVar[bool] = True

    @property
    def keeps_state(self) -> bool:
        """Its own copy."""
        return True

    def due(self, state: ServerState) -> bool:
        """Once, when the rounds are over."""
        return not state.info.get("finetuned")

    def members(self, state: ServerState) -> Members:
        """Every device."""
        return Members(self.config.federation.device_count)

    def expected(self, state: ServerState) -> tuple[Mapping[str, TensorSpec], Mapping[str, InfoSpec]]:
        """No tensors."""
        return {}, COSTS

    def finish(self, state: ServerState, accumulator: Any) -> ServerState:
        return state.replace(info={**state.info, "finetuned": True})

    def job(self, device: Device, request: Request, indices: Any = None, **changes: Any) -> TrainJob:
        """At the full learning rate, not the last round's, which may have fallen to a tenth."""
        rate = self.config.training.learning_rate
        return super().job(device, request, indices, **{"learning_rate": rate, **changes})

    def conclude(self, device: Device, request: Request, result: LocalResult) -> tuple[Reply, DeviceState | None]:
        """All that was trained stays."""
        return Reply(request.address, {}, self.costs(device, result)), DeviceState(result.tensors, kept_memory(result))
