"""`local-only`: every device trains by itself. What federation has to beat."""

from typing import ClassVar

from fibecfed.errors import InputError
from fibecfed.federation import Members, ServerState
from fibecfed.methods.base import FederatedAveraging
from fibecfed.methods.stages import Train


class _EveryDevice(Train):
    """A round of all devices: where nothing is sent, none has to wait for its turn."""

    def members(self, state: ServerState) -> Members:
        return Members(self.config.federation.device_count)


class LocalOnly(FederatedAveraging):
    """Nothing travels, so every device trains in every round, sampled or not.

    Its global score is the mean over the devices' models (docs/baselines.md).
    """

    name: ClassVar[str] = "local-only"
    place: ClassVar[int] = 40
    is_control: ClassVar[bool] = True
    paper: ClassVar[str] = "control"
    trains: ClassVar[str] = "LoRA of every layer, and the head, on each device alone"
    sends: ClassVar[str] = "nothing"
    global_is_mean_of_devices: ClassVar[bool] = True
    takes_own_head: ClassVar[bool] = False
    round_stage: ClassVar[type[Train]] = _EveryDevice

    def _prepare(self) -> None:
        self.keeps_device_state = self.keeps_local = True
        config = self.config
        if config.model.solves_head or config.training.loss not in (None, "cross_entropy"):
            raise InputError(
                "method=local-only exchanges nothing, so model.head_init and training.loss=prior_corrected, "
                "which need sums over all devices, cannot be had with it."
            )

    def shared(self, state: ServerState) -> tuple[str, ...]:
        return ()
