"""`moms-adamd`: Adam on devices, momentum on the server."""

from typing import Any, ClassVar

from torch import Tensor

from fibecfed.federation import ServerState
from fibecfed.methods.base import FederatedAveraging
from fibecfed.methods.stages import Train

_MOMENTUM = "momentum/"


class _ServerMomentum(Train):
    """The step of FedAvgM in place of the plain average."""

    def finish(self, state: ServerState, accumulator: Any) -> ServerState:
        before, names = state.tensors, self.shared(state)
        state = super().finish(state, accumulator)
        settings = self.config.server
        tensors, memory = dict(state.tensors), dict(state.memory)
        for name in names:
            change = tensors[name].double() - before[name].double()
            old = memory.get(_MOMENTUM + name, change.new_zeros(change.shape))
            tensors[name] = _step(tensors[name], change, old, settings.momentum, settings.rate)
            memory[_MOMENTUM + name] = settings.momentum * old + change
        return state.replace(tensors=tensors, memory=memory)


class MomsAdamd(FederatedAveraging):
    """fedavg-lora with FedAvgM on the server: v <- beta v + d, x <- x + rate v, d = aggregate - x.

    One of FedPepTAO's baselines (Che et al. 2023). FedAvgM: Hsu et al. 2019 (there
    x <- x - v with d of the opposite sign, and rate 1). v is float64 and lies in the server's state.
    Parameters and bytes: as fedavg-lora.
    """

    name: ClassVar[str] = "moms-adamd"
    place: ClassVar[int] = 140
    paper: ClassVar[str] = "Che et al. 2023 (baseline of FedPepTAO); Hsu et al. 2019"
    trains: ClassVar[str] = "as fedavg-lora"
    sends: ClassVar[str] = "as fedavg-lora; momentum stays on the server"
    sections: ClassVar[frozenset[str]] = frozenset({"server"})
    round_stage: ClassVar[type[Train]] = _ServerMomentum


def _step(average: Tensor, change: Tensor, old: Tensor, momentum: float, rate: float) -> Tensor:
    """x + rate (momentum old + change), written from the average x + change.

    With momentum 0 and rate 1 it is then the average itself, to the last bit.
    """
    return (average.double() + (rate - 1) * change + rate * momentum * old).to(average.dtype)
