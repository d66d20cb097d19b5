"""What most stages have in common: who answers with what, and what a reply says of the work behind it."""

from collections.abc import Mapping
from typing import Any, ClassVar

from fibecfed.config import Config
from fibecfed.federation import (
    AGGREGATORS,
    COSTS,
    Content,
    Device,
    InfoSpec,
    Members,
    Reply,
    Request,
    ServerState,
    TensorSpec,
    Work,
)
from fibecfed.training import LocalResult
from fibecfed.tuning import Layout


class Exchange:
    """One exchange with the devices that a round would ask. Subclasses say when it is due, and what it is for."""

    name: ClassVar[str]
    is_round: ClassVar[bool] = False
    evaluated: ClassVar[bool] = False
    trains: ClassVar[bool] = False

    def __init__(self, config: Config, layout: Layout) -> None:
        self.config = config
        self.layout = layout

    @property
    def keeps_state(self) -> bool:
        """Nothing."""
        return False

    # Server half

    def due(self, state: ServerState) -> bool:
        """Whether it comes next, given that no stage before it does."""
        raise NotImplementedError

    def members(self, state: ServerState) -> Members:
        """As many devices as take part in a round."""
        return Members(self.config.federation.cohort_size)

    def request(self, state: ServerState, device: int) -> Content:
        """Nothing but the question."""
        return {}, {}

    def expected(self, state: ServerState) -> tuple[Mapping[str, TensorSpec], Mapping[str, InfoSpec]]:
        """No tensors, and the work behind the reply."""
        return {}, COSTS

    def problem(self, state: ServerState, reply: Reply) -> str | None:
        """Nothing that the form of a reply does not show."""
        return None

    def accumulator(self, state: ServerState) -> Any:
        """As federation.aggregation says."""
        return AGGREGATORS[self.config.federation.aggregation]()

    def fold(self, accumulator: Any, reply: Reply) -> None:
        """Weighted by the device's number of training examples."""
        accumulator.fold(reply.tensors, float(reply.info["examples"]))

    def finish(self, state: ServerState, accumulator: Any) -> ServerState:
        """What the server knows after the exchange."""
        raise NotImplementedError

    # Device half

    def work(self, device: Device, request: Request) -> Work:
        """The device's jobs, and the reply they give; here none, and the ``answer``."""
        yield from ()
        return self.answer(device, request)

    def answer(self, device: Device, request: Request) -> Reply:
        """The reply of a stage that needs no jobs."""
        raise NotImplementedError

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
