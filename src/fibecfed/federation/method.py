"""What a method is to the federation: a server half that steps through phases and a device half that works."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from torch import Tensor

from fibecfed.federation.messages import Delivery, Failure, Reply, Request
from fibecfed.federation.state import DeviceState, ServerState
from fibecfed.federation.validation import InfoSpec, TensorSpec
from fibecfed.training import LocalResult, TrainJob
from fibecfed.tuning import Layout

if TYPE_CHECKING:
    from fibecfed.federation.device import Device, Site


@dataclass(frozen=True)
class Phase:
    """One exchange between the server and a cohort.

    A phase that ``is_round`` counts as a round and is followed by an evaluation when one is due.
    """

    name: str
    round: int  # the 1-based round it is, or prepares
    devices: int  # how many devices take part
    is_round: bool = True
    members: tuple[int, ...] | None = None  # exactly these devices, ascending; None: drawn by the seed
    judged: bool = False  # not a round, but the model is evaluated after it; replaces the round's own evaluation


class Method(Protocol):
    """One federated fine-tuning method. See methods/base.py for what most methods inherit."""

    name: ClassVar[str]
    tuning: ClassVar[str]  # the kind of parameters that train
    pooled_data: ClassVar[bool]  # one device holds everything
    keeps_device_state: bool  # devices have models of their own
    layout: Layout

    def shared(self, state: ServerState) -> Sequence[str]:
        """Names of the parameters whose server value a device uses."""

    def personal_devices(self, state: ServerState) -> Sequence[int]:
        """The devices with a model of their own, ascending."""

    def personal(self, device: "Device", state: ServerState) -> dict[str, Tensor]:
        """Every trainable parameter of a device's own model."""

    def init(self, tensors: Mapping[str, Tensor]) -> ServerState:
        """The state before the first phase."""

    def next_phase(self, state: ServerState) -> Phase | None:
        """What to do next; None when the run is over."""

    def is_closed(self, state: ServerState) -> bool:
        """Whether a phase after the last round is done, so that no further round can follow."""

    def request(self, state: ServerState, phase: Phase, device: int) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        """Tensors and info to send to one device."""

    def accumulator(self, state: ServerState, phase: Phase) -> Any:
        """A fresh accumulator for the phase's replies; only this method looks inside."""

    def expected(self, state: ServerState, phase: Phase) -> Mapping[str, TensorSpec]:
        """Names, shapes and dtypes of the tensors that a reply must hold."""

    def expected_info(self, state: ServerState, phase: Phase) -> Mapping[str, InfoSpec]:
        """What a reply may say in its info, and what it must."""

    def problem(self, state: ServerState, phase: Phase, reply: Reply) -> str | None:
        """Why a reply that has the expected form contradicts itself; None if it does not."""

    def fold(self, accumulator: Any, reply: Reply) -> None:
        """Take one reply; they come in device order."""

    def finish(self, state: ServerState, phase: Phase, accumulator: Any) -> ServerState:
        """The state after the phase; ``round`` goes up by one if it was a round."""

    def prepare(self, device: "Device", request: Request) -> TrainJob | Reply:
        """Device half: the training to do, or at once the reply if there is none."""

    def conclude(self, device: "Device", request: Request, result: LocalResult) -> tuple[Reply, DeviceState | None]:
        """Device half: the reply after training, and the state to keep (None: nothing is kept)."""

    def midway(self, state: ServerState) -> ServerState:
        """A state as it is in most rounds, for estimates before a run."""

    def decisions(self, site: "Site", state: ServerState) -> Mapping[str, Any]:
        """What the method decided in a run, for showing and saving; {} when it decides nothing."""


class Transport(Protocol):
    """Carries requests to devices and brings their replies."""

    def exchange(self, requests: Sequence[Request], deadline: float) -> Iterator[Delivery | Failure]:
        """Answers to the requests, in any order, within ``deadline`` seconds.

        What came as bytes goes through ``receive``. A transport names what it knows of a silent device; one
        that it passes over is named as late, and answers beyond one a device are named and left out by the server.
        """
