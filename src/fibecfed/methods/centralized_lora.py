"""`centralized-lora`: all data in one place. The upper bound."""

from typing import ClassVar

from fibecfed.methods.base import FederatedAveraging


class CentralizedLora(FederatedAveraging):
    """One device holds every training example and trains ``training.local_epochs`` over all of them each round."""

    name: ClassVar[str] = "centralized-lora"
    place: ClassVar[int] = 30
    paper: ClassVar[str] = "control; Hu et al. 2021"
    trains: ClassVar[str] = "LoRA of every layer, and the head, on all data at once"
    sends: ClassVar[str] = "its model, as one device"
    pooled_data: ClassVar[bool] = True
