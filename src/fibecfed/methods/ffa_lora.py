"""`ffa-lora`: LoRA's A stays as it was drawn; B is trained and averaged."""

from typing import ClassVar

from fibecfed.federation import ServerState
from fibecfed.methods.base import FederatedAveraging
from fibecfed.methods.stages import Train, TrainWhatTravels


class FfaLora(FederatedAveraging):
    """Federated freeze-A LoRA (Sun et al. 2024): with one A everywhere, mean(B) A = mean(B A) exactly.

    A is drawn from the seed, which every device has, and never travels. The head is trained and shared as in
    fedavg-lora (the paper freezes it on GLUE; project decision).

    Trained, for R-rank LoRA on maps d_in -> d_out: sum R d_out, and the head. Bytes a round and device, each way:
    4 x as many.
    """

    name: ClassVar[str] = "ffa-lora"
    place: ClassVar[int] = 160
    paper: ClassVar[str] = "Sun et al. 2024"
    trains: ClassVar[str] = "LoRA B of every layer, and the head; A is frozen"
    sends: ClassVar[str] = "LoRA B and the head"
    round_stage: ClassVar[type[Train]] = TrainWhatTravels

    def shared(self, state: ServerState) -> tuple[str, ...]:
        return tuple(p.name for p in self.layout if p.role != "lora_A")
