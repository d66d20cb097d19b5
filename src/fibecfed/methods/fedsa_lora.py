"""`fedsa-lora`: LoRA's A is shared, B stays on the device."""

from typing import ClassVar

from fibecfed.federation import ServerState
from fibecfed.methods.base import FederatedAveraging


class FedsaLora(FederatedAveraging):
    """Federated share-A LoRA (Guo et al. 2024): A holds what devices have in common, B what they do not.

    Everything is trained on devices; A and the head are averaged (the head: project decision), B is the device's own.
    The global model has B = 0, as at the start: it is the shared head on the plain backbone. Judge the method by
    its personalized score.

    Trained: as fedavg-lora. Bytes a round and device, each way: 4 x (sum R d_in over maps of rank R, and the head).
    """

    name: ClassVar[str] = "fedsa-lora"
    place: ClassVar[int] = 170
    paper: ClassVar[str] = "Guo et al. 2024"
    trains: ClassVar[str] = "as fedavg-lora; LoRA B on each device for itself"
    sends: ClassVar[str] = "LoRA A and the head"

    def _prepare(self) -> None:
        self.keeps_device_state = self.keeps_local = True

    def shared(self, state: ServerState) -> tuple[str, ...]:
        return tuple(p.name for p in self.layout if p.role != "lora_B")
