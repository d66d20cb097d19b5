"""What a method is to the federation: stages, each with both halves of one exchange between server and devices."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

from torch import Tensor

from fibecfed.federation.device import Device, Site
from fibecfed.federation.messages import Delivery, Failure, Reply, Request
from fibecfed.federation.state import ServerState
from fibecfed.federation.validation import InfoSpec, TensorSpec
from fibecfed.training import Job
from fibecfed.tuning import Layout

Content = tuple[Mapping[str, Tensor], Mapping[str, Any]]  # tensors and info of a message
Work = Generator[Job, Any, Reply]  # yields the jobs it needs one by one, is sent their results, returns the reply


class Members(NamedTuple):
    """Who takes part in an exchange: so many devices, drawn by the seed, or exactly these, ascending.

    ``of_round``: those of the round that the exchange prepares; fewer are drawn among them, more beside them.
    """

    number: int
    chosen: tuple[int, ...] | None = None
    of_round: bool = False


class Stage(Protocol):
    """One exchange between the server and a cohort. The server's half is pure: state in, state out."""

    name: ClassVar[str]  # in messages and costs; one of its kind in a method
    is_round: ClassVar[bool]  # counts as a round, and is followed by an evaluation when one is due
    evaluated: ClassVar[bool]  # no round, but an evaluation follows, which replaces that of the last round
    trains: ClassVar[bool]  # replies tell of training

    @property
    def keeps_state(self) -> bool:
        """Whether devices keep something new when they have answered, as far as is known before."""

    def due(self, state: ServerState) -> bool:
        """Whether it comes next, given that no stage before it in the method does."""

    def members(self, state: ServerState) -> Members:
        """Who is asked."""

    def request(self, state: ServerState, device: int) -> Content:
        """What is sent to one device."""

    def expected(self, state: ServerState) -> tuple[Mapping[str, TensorSpec], Mapping[str, InfoSpec]]:
        """The tensors that a reply must hold, and what its info may say, and must."""

    def problem(self, state: ServerState, reply: Reply) -> str | None:
        """Why a reply that has the expected form contradicts itself; None if it does not."""

    def accumulator(self, state: ServerState) -> Any:
        """A fresh accumulator for the replies; only this stage looks inside."""

    def fold(self, accumulator: Any, reply: Reply) -> None:
        """Take one reply; they come in device order."""

    def finish(self, state: ServerState, accumulator: Any) -> ServerState:
        """What the server then knows; ``round`` is one more if this was a round."""

    def work(self, device: Device, request: Request) -> Work:
        """Device half. Raises DeviceFailed for a request that it must not answer."""


class Method(Protocol):
    """One federated fine-tuning method. See methods/base.py for what most methods inherit."""

    name: ClassVar[str]
    tuning: ClassVar[str]  # the kind of parameters that train
    pooled_data: ClassVar[bool]  # one device holds everything
    keeps_device_state: bool  # devices have models of their own
    layout: Layout

    @property
    def stages(self) -> Sequence[Stage]:
        """In order: the first that is due comes next; none: the run is over."""

    def shared(self, state: ServerState) -> Sequence[str]:
        """Names of the parameters whose server value a device uses."""

    def personal_devices(self, state: ServerState) -> Sequence[int]:
        """The devices with a model of their own, ascending."""

    def personal(self, device: Device, state: ServerState) -> dict[str, Tensor]:
        """Every trainable parameter of a device's own model."""

    def look_ahead(self, site: Site, state: ServerState) -> None:
        """Before ``personal`` of many devices of one process: what they need of the server's model, computed once."""

    def init(self, tensors: Mapping[str, Tensor]) -> ServerState:
        """The state before the first stage."""

    def is_closed(self, state: ServerState) -> bool:
        """Whether a stage after the last round is done, so that no further round can follow."""

    def midway(self, state: ServerState) -> ServerState:
        """A state as it is in most rounds, for estimates before a run."""

    def decisions(self, site: Site, state: ServerState) -> Mapping[str, Any]:
        """What the method decided in a run, for showing and saving; {} when it decides nothing."""


def next_stage(method: Method, state: ServerState) -> Stage | None:
    """The first stage that is due; None when the run is over."""
    return next((stage for stage in method.stages if stage.due(state)), None)


def stage_round(stage: Stage, state: ServerState) -> int:
    """The 1-based round that a stage is, or prepares; after the last round, that one."""
    return state.round if stage.evaluated else state.round + 1


class Transport(Protocol):
    """Carries requests to devices and brings their replies."""

    def exchange(self, requests: Sequence[Request], deadline: float) -> Iterator[Delivery | Failure]:
        """Answers to the requests, in any order, within ``deadline`` seconds.

        What came as bytes goes through ``receive``. A transport names what it knows of a silent device; one
        that it passes over is named as late, and answers beyond one a device are named and left out by the server.
        """
