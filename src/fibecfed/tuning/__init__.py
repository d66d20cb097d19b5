"""What is trained on top of the frozen backbone."""

from fibecfed.tuning.adapter_files import (
    load_adapter,
    put_tensors,
    read_description,
    read_tensors,
    save_adapter,
    trainable_tensors,
)
from fibecfed.tuning.attentive_prompt import AttentivePromptTuning
from fibecfed.tuning.bottleneck import BottleneckTuning
from fibecfed.tuning.instance_prompt import InstancePromptTuning
from fibecfed.tuning.kind import Tuning, pooling_of
from fibecfed.tuning.late_prompt import LatePromptTuning
from fibecfed.tuning.layout import Layout, Parameter
from fibecfed.tuning.lora import LoraTuning
from fibecfed.tuning.prefix import PrefixTuning
from fibecfed.tuning.prompt import PromptTuning

TUNINGS: dict[str, Tuning] = {
    t.name: t
    for t in (
        LoraTuning(),
        BottleneckTuning(),
        PromptTuning(),
        PrefixTuning(),
        LatePromptTuning(),
        InstancePromptTuning(),
        AttentivePromptTuning(),
    )
}

__all__ = [
    "TUNINGS",
    "BottleneckTuning",
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
