"""`momd`: momentum SGD on devices."""

from collections.abc import Mapping
from typing import Any, ClassVar

from fibecfed.methods.base import FederatedAveraging


class Momd(FederatedAveraging):
    """fedavg-lora whose devices take SGD steps with momentum: v <- beta v + g, w <- w - rate v.

    One of FedPepTAO's baselines (Che et al. 2023); the momentum is heavy-ball (Polyak 1964), starts from
    0 in every round and never travels. beta = 0.9 is a project decision; ``training.momentum`` changes it.
    Parameters and bytes: as fedavg-lora.
    """

    name: ClassVar[str] = "momd"
    place: ClassVar[int] = 130
    paper: ClassVar[str] = "Che et al. 2023 (baseline of FedPepTAO)"
    trains: ClassVar[str] = "as fedavg-lora, by SGD with momentum"
    sends: ClassVar[str] = "as fedavg-lora"
    parts: ClassVar[Mapping[str, Mapping[str, Any]]] = {"training": {"optimizer": "sgd", "momentum": 0.9}}
