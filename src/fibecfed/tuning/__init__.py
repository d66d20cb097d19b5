"""What is trained on top of the frozen backbone."""

from typing import Any, Protocol

from torch import nn

from fibecfed.config import Config
from fibecfed.models import Pretrained
from fibecfed.tuning.adapter_files import (
    PeftForm,
    load_adapter,
    put_tensors,
    read_description,
    read_tensors,
    save_adapter,
    trainable_tensors,
)
from fibecfed.tuning.delta_lora import DeltaLoraTuning, delta_start
from fibecfed.tuning.layout import Layout, Parameter
from fibecfed.tuning.lora import LoraTuning, SavedLora, pooling_of
from fibecfed.tuning.sparse_lora import SparseLoraTuning, sparse_rounds, taken_over
from fibecfed.tuning.svd_lora import SvdLoraTuning, initial_rank


class Tuning(Protocol):
    """One kind of parameter-efficient tuning."""

    name: str
    reloads: bool  # whether ``load_adapter`` brings back what was saved; else it is saved as an ordinary LoRA adapter

    def attach(self, pretrained: Pretrained, classes: int, config: Config, seed: int) -> nn.Module:
        """A model with trainable parameters; all others frozen."""

    def layout(self, model: nn.Module, config: Any) -> Layout:
        """Those parameters, described."""

    def peft_form(self, model: Any) -> PeftForm:
        """The model's adapter as it is saved."""


_KINDS: tuple[Tuning, ...] = (LoraTuning(), SparseLoraTuning(), DeltaLoraTuning(), SvdLoraTuning())
TUNINGS: dict[str, Tuning] = {kind.name: kind for kind in _KINDS}

__all__ = [
    "TUNINGS",
    "DeltaLoraTuning",
    "Layout",
    "LoraTuning",
    "Parameter",
    "PeftForm",
    "SavedLora",
    "SparseLoraTuning",
    "SvdLoraTuning",
    "Tuning",
    "delta_start",
    "initial_rank",
    "load_adapter",
    "pooling_of",
    "put_tensors",
    "read_description",
    "read_tensors",
    "save_adapter",
    "sparse_rounds",
    "taken_over",
    "trainable_tensors",
]
