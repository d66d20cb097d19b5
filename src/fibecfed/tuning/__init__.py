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
from fibecfed.tuning.delta_lora import DeltaLoraTuning, delta_start
from fibecfed.tuning.instance_prompt import InstancePromptTuning
from fibecfed.tuning.kind import SavedForm, Tuning, pooling_of
from fibecfed.tuning.late_prompt import LatePromptTuning
from fibecfed.tuning.layout import Layout, Parameter
from fibecfed.tuning.lora import LoraTuning, SavedLora
from fibecfed.tuning.merged import save_merged
from fibecfed.tuning.prefix import PrefixTuning
from fibecfed.tuning.prompt import PromptTuning
from fibecfed.tuning.sparse_lora import SparseLoraTuning, sparse_rounds, taken_over
from fibecfed.tuning.svd_lora import SvdLoraTuning, initial_rank

TUNINGS: dict[str, Tuning] = {
    t.name: t
    for t in (
        LoraTuning(),
        SparseLoraTuning(),
        DeltaLoraTuning(),
        SvdLoraTuning(),
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
    "DeltaLoraTuning",
    "Layout",
    "LoraTuning",
    "Parameter",
    "SavedForm",
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
    "save_merged",
    "sparse_rounds",
    "taken_over",
    "trainable_tensors",
]
