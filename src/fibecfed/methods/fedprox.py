"""`fedprox`: a device is held near the model it received."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from fibecfed.federation import Device, Request
from fibecfed.methods.base import FederatedAveraging
from fibecfed.methods.stages import Train
from fibecfed.training import TrainJob


class _HeldNear(Train):
    """Local training with the pull."""

    def job(self, device: Device, request: Request, indices: Any = None, **changes: Any) -> TrainJob:
        mu = self.config.proximal.mu
        penalty = _Pull(mu, request.tensors) if mu else None
        return super().job(device, request, indices, **{"penalty": penalty, **changes})


class FedProx(FederatedAveraging):
    """fedavg-lora on the loss plus mu/2 ||w - w_received||^2 (Li et al. 2020, equation 2).

    The norm is over every trained parameter, LoRA and head; the gradient is clipped after the term has been added.
    With mu = 0 it is fedavg-lora. The paper's partial work of slow devices is left out: all take the same steps.
    Parameters and bytes: as fedavg-lora.
    """

    name: ClassVar[str] = "fedprox"
    place: ClassVar[int] = 180
    paper: ClassVar[str] = "Li et al. 2020"
    trains: ClassVar[str] = "as fedavg-lora, pulled towards the received model"
    sends: ClassVar[str] = "as fedavg-lora"
    sections: ClassVar[frozenset[str]] = frozenset({"proximal"})
    round_stage: ClassVar[type[Train]] = _HeldNear


@dataclass(frozen=True)
class _Pull:
    """The penalty; a class, and no function in a function, so that a job with it can go to another process."""

    mu: float
    received: Mapping[str, Tensor]

    def __call__(self, parameters: Mapping[str, Tensor]) -> Tensor:
        starts = self.received.items()
        squares = [(parameters[name] - start.to(parameters[name])).square().sum() for name, start in starts]
        return self.mu / 2 * torch.stack(squares).sum()
