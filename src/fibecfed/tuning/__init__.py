"""What is trained on top of the frozen backbone."""

from typing import Any, Protocol

from torch import nn

from fibecfed.config import Config
from fibecfed.models import Pretrained
from fibecfed.tuning.adapter_files import (
    load_adapter,
    put_tensors,
    read_description,
    read_tensors,
    save_adapter,
    trainable_tensors,
)
from fibecfed.tuning.layout import Layout, Parameter
from fibecfed.tuning.lora import LoraTuning, pooling_of


class Tuning(Protocol):
    """One kind of parameter-efficient tuning."""

    name: str

    def attach(self, pretrained: Pretrained, classes: int, config: Config, seed: int) -> nn.Module:
        """A model with trainable parameters; all others frozen."""

    def layout(self, model: nn.Module, config: Any) -> Layout:
        """Those parameters, described."""


TUNINGS: dict[str, Tuning] = {t.name: t for t in (LoraTuning(),)}

__all__ = [
    "TUNINGS",
    "Layout",
    "LoraTuning",
    "Parameter",
    "Tuning",
    "load_adapter",
    "pooling_of",
    "put_tensors",
    "read_description",
    "read_tensors",
    "save_adapter",
    "trainable_tensors",
]
