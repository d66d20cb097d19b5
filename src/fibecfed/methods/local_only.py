"""`local-only`: every device trains by itself. What federation has to beat."""

from typing import ClassVar

from fibecfed.federation import ServerState
from fibecfed.methods.base import FederatedAveraging


class LocalOnly(FederatedAveraging):
    """Nothing travels. Its global accuracy is the mean over the trained devices' models (BASELINES.md)."""

    name: ClassVar[str] = "local-only"
    paper: ClassVar[str] = "control"
    trains: ClassVar[str] = "LoRA of every layer, and the head, on each device alone"
    sends: ClassVar[str] = "nothing"
    keeps_device_state: ClassVar[bool] = True
    global_is_mean_of_devices: ClassVar[bool] = True

    def shared(self, state: ServerState) -> tuple[str, ...]:
        return ()
