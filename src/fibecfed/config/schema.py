"""Every setting of a run: its type, its bounds, its default and what it means.

``None`` always has a meaning that the description states; there is no key that does nothing.
"""

import itertools
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from fibecfed.config.baselines import (
    AdaLoraConfig,
    DeltaConfig,
    FedAltConfig,
    LengthsConfig,
    ProximalConfig,
    ServerConfig,
    SparseConfig,
)
from fibecfed.config.data import DataConfig
from fibecfed.config.federation import FederationConfig
from fibecfed.config.instructions import CLASSIFICATION, check_task, task_name
from fibecfed.config.parts import CurriculumConfig, PersonalConfig, SharingConfig, WarmUpConfig
from fibecfed.config.paths import HOME, from_home
from fibecfed.config.tunings import (
    AdapterConfig,
    AttentivePromptConfig,
    InstancePromptConfig,
    LatePromptConfig,
    PrefixConfig,
    PromptConfig,
    TuningName,
)
from fibecfed.errors import InputError

_STRICT_KEYS = ConfigDict(extra="forbid")


def _default_model_dir() -> str | None:
    folder = os.environ.get("FIBECFED_MODEL_DIR")
    return from_home(folder) if folder else None


@dataclass(config=_STRICT_KEYS, frozen=True)
class ModelConfig:
    """The frozen pretrained model and the head on it."""

    name: Annotated[
        str, HOME, Field(description="`minilm` (from the extra of that name), a folder, or a Hugging Face model name.")
    ] = "minilm"
    dir: Annotated[
        str | None,
        HOME,
        Field(
            description="Folder in which model.name is looked for first. Default: $FIBECFED_MODEL_DIR. None: "
            "model.name is a path or a hub name as it stands."
        ),
    ] = Field(default_factory=_default_model_dir)
    head: Annotated[
        Literal["pooled", "native"],
        Field(
            description="pooled: AutoModel, pooling and one linear layer; native: the model's own "
            "AutoModelForSequenceClassification head."
        ),
    ] = "pooled"
    head_init: Annotated[
        Literal["random", "ridge", "class_means"] | None,
        Field(
            description="random; ridge or class_means: solved by the server in closed form from sums that every device "
            "sends once (pooled head). None: the method decides."
        ),
    ] = None
    ridge_penalty: Annotated[
        Annotated[float, Field(gt=0)] | Literal["auto"],
        Field(
            description="Penalty of head_init=ridge, relative to the features' mean square. auto: the one of a grid "
            "with the lowest squared error on folds of devices that are held out, all from the sums [D]."
        ),
    ] = "auto"
    pooling: Annotated[
        Literal["auto", "mean", "cls", "last"],
        Field(description="How token vectors become one (pooled head). auto: mean for encoders, last for decoders."),
    ] = "auto"
    quantization: Annotated[
        Literal["none", "4bit"],
        Field(
            description="4bit: the frozen weights in nf4 by bitsandbytes (extra `4bit`, CUDA only), arithmetic in "
            "bf16; causal-lm."
        ),
    ] = "none"
    allow_download: Annotated[
        bool,
        Field(
            description="Whether the model may be fetched from the Hugging Face hub; off, only local files are read."
        ),
    ] = False

    @property
    def solves_head(self) -> bool:
        """Whether the head is solved in closed form before the first round; not while the method is to decide."""
        return self.head_init not in (None, "random")


@dataclass(config=_STRICT_KEYS, frozen=True)
class LoraConfig:
    """Low-rank adaptation (Hu et al. 2021), through PEFT."""

    rank: Annotated[int, Field(ge=1, description="Rank r of every LoRA pair.")] = 8
    alpha: Annotated[float, Field(gt=0, description="LoRA alpha; the update is scaled by alpha / rank.")] = 16.0
    dropout: Annotated[float, Field(ge=0, lt=1, description="Dropout before LoRA's A in training.")] = 0.0
    targets: Annotated[
        str | list[str],
        Field(
            description="all-linear: every linear map of the transformer layers; auto: the attention's query and value "
            "maps; or a list of module name endings."
        ),
    ] = "all-linear"


@dataclass(config=_STRICT_KEYS, frozen=True)
class TrainingConfig:
    """The work of one device in one round."""

    learning_rate: Annotated[float, Field(gt=0, description="Peak learning rate on devices.")] = 1e-3
    batch_size: Annotated[int, Field(ge=1, description="Examples per optimizer step.")] = 8
    micro_batch_size: Annotated[
        int | None,
        Field(ge=1, description="Examples per forward pass; gradients accumulate to batch_size. None: batch_size."),
    ] = None
    local_epochs: Annotated[int, Field(ge=1, description="Passes over a device's current examples in one round.")] = 1
    local_steps: Annotated[
        int | None, Field(ge=1, description="Stop a device's round after this many optimizer steps. None: no limit.")
    ] = None
    optimizer: Annotated[
        Literal["adamw", "sgd"] | None,
        Field(description="Optimizer on devices, fresh each round. None: the method decides."),
    ] = None
    momentum: Annotated[float | None, Field(ge=0, lt=1, description="Momentum of sgd. None: the method decides.")] = (
        None
    )
    weight_decay: Annotated[float, Field(ge=0, description="Decoupled weight decay (adamw) or L2 (sgd).")] = 0.0
    max_grad_norm: Annotated[
        float | None, Field(gt=0, description="Clip the gradient's norm to this. None: no clipping.")
    ] = 1.0
    schedule: Annotated[
        Literal["constant", "linear", "cosine"],
        Field(description="Learning rate over rounds: constant, or falling to a tenth of the peak."),
    ] = "linear"
    loss: Annotated[
        Literal["cross_entropy", "prior_corrected"] | None,
        Field(
            description="prior_corrected: cross-entropy of z + log(device's label proportions / all devices'), so that "
            "the model need not learn who it is trained by. The global model says plain z; a device's own model keeps "
            "its ratio, in the bias of a pooled head. None: the method decides."
        ),
    ] = None
    keep_optimizer: Annotated[bool, Field(description="Keep a device's optimizer state between its rounds.")] = False
    cohort: Annotated[
        Annotated[int, Field(ge=1)] | Literal["auto"],
        Field(
            description="Devices that train in one pass of the model, their parameters stacked: the same results but "
            "for rounding. Meant for a GPU, which one small batch does not fill. What cannot be stacked trains one "
            "device after another, and the log says why. auto: 8 on a CUDA device, elsewhere 1 [D]."
        ),
    ] = "auto"
    cache_mb: Annotated[
        Annotated[int, Field(ge=0)] | Literal["auto"],
        Field(
            description="Memory in MiB for hidden states under the lowest layer that trains, which are then computed "
            "once, with the same results to the bit. auto: a quarter of what is free, shared by all processes; none "
            "where lora.dropout changes the states or a prompt trains. 0: no cache. Only helps where low layers are "
            "frozen (sharing.rows=none, head-only).",
        ),
    ] = "auto"
    gradient_checkpointing: Annotated[
        bool, Field(description="Recompute activations in the backward pass: less memory, more time.")
    ] = False


@dataclass(config=_STRICT_KEYS, frozen=True)
class EvaluationConfig:
    """When and on what the model is evaluated."""

    every: Annotated[int, Field(ge=1, description="Evaluate every so many rounds; the last round always is.")] = 1
    start: Annotated[
        bool, Field(description="Evaluate before the first round too, as round 0: what the untrained model comes to.")
    ] = False
    split: Annotated[
        Literal["test", "validation"],
        Field(description="validation for every tuning decision, test for what is reported."),
    ] = "test"
    batch_size: Annotated[int, Field(ge=1, description="Examples per forward pass in evaluation and prediction.")] = 64
    patience: Annotated[
        int | None,
        Field(
            ge=1,
            description="Stop when so many evaluations have passed without a better global score; meant for "
            "evaluation.split=validation. None: run every round.",
        ),
    ] = None
    generate: Annotated[
        list[Literal["exact_match", "final_number", "rouge_l"]],
        Field(
            description="causal-lm: what answers are judged by at each evaluation. exact_match; final_number: behind "
            "'####', else the last one; rouge_l: ROUGE-L F1 (extra `rouge`). []: no answer is generated."
        ),
    ] = Field(default_factory=list)
    generate_examples: Annotated[
        int, Field(ge=1, description="generate only: held-out prompts of each device that are answered, by the seed.")
    ] = 5
    generate_tokens: Annotated[int, Field(ge=1, description="generate only: new tokens of an answer at most.")] = 64


@dataclass(config=_STRICT_KEYS, frozen=True)
class CostConfig:
    """The cost model behind simulated_seconds (docs/method.md section 9)."""

    device_gflops: Annotated[
        float, Field(gt=0, description="Throughput of a device of speed 1, in 1e9 operations a second.")
    ] = 50.0
    speed_spread: Annotated[
        float, Field(ge=0, description="Devices differ: speed = exp(spread x normal), seeded per device. 0: all equal.")
    ] = 0.0
    network: Annotated[
        Literal["lan", "wan", "mobile"],
        Field(description="lan: 1 Gbit/s; wan: 50 up, 100 down Mbit/s, 50 ms; mobile: 5 up, 20 down Mbit/s, 80 ms."),
    ] = "wan"


@dataclass(config=_STRICT_KEYS, frozen=True)
class RuntimeConfig:
    """The hardware this process uses."""

    threads: Annotated[
        int, Field(ge=1, description="CPU threads of torch. Gradients differ in the last bits between thread counts.")
    ] = 1
    workers: Annotated[
        Annotated[int, Field(ge=1)] | Literal["auto"],
        Field(
            description="Processes that share the devices' work and the evaluation, with the same results for any "
            "number. 1: none beside this one, as a debugger wants it. auto: cores / threads, at most one for each "
            "device of a round; 1 where jobs are tiny, off Linux and on a GPU."
        ),
    ] = "auto"
    device: Annotated[
        Literal["cpu", "cuda", "mps", "auto"],
        Field(description="Where the model runs; auto: cuda, else mps, else cpu."),
    ] = "cpu"
    precision: Annotated[
        Literal["fp32", "bf16"],
        Field(description="Precision of the frozen backbone's arithmetic; trained parameters stay fp32."),
    ] = "fp32"
    device_states: Annotated[
        Literal["auto", "memory", "disk"],
        Field(description="Where simulated devices keep their state; auto: disk when the run has a directory."),
    ] = "auto"


@dataclass(config=_STRICT_KEYS, frozen=True)
class TaskConfig:
    """What the model is trained for."""

    kind: Annotated[
        str | None,
        Field(
            description="classification: one label out of a fixed set; causal-lm: a language model learns responses to "
            "prompts. None: causal-lm where data.prompt, response or messages is set, or where data.file has such "
            "columns and none for a classifier; else classification."
        ),
    ] = None


@dataclass(config=_STRICT_KEYS, frozen=True)
class Config:
    """Everything that defines a run. ``fibecfed config`` prints it."""

    method: Annotated[
        str,
        Field(
            description="The method (`fibecfed methods` lists them). auto: fibecfed-plus for a classifier with a "
            "pooled head, fibecfed for everything else."
        ),
    ] = "auto"
    tuning: Annotated[
        TuningName | None,
        Field(
            description="What is trained: lora or adapter where the method takes both (fibecfed and its controls); the "
            "other kinds belong to one method each. None: the method decides."
        ),
    ] = None
    seed: Annotated[int, Field(ge=0, description="Seed of every random choice.")] = 0
    task: TaskConfig = Field(default_factory=TaskConfig)
    data: DataConfig = Field(default_factory=DataConfig)
    federation: FederationConfig = Field(default_factory=FederationConfig)
    model: ModelConfig = Field(default_factory=ModelConfig)
    lora: LoraConfig = Field(default_factory=LoraConfig)
    adapter: AdapterConfig = Field(default_factory=AdapterConfig)
    prompt: PromptConfig = Field(default_factory=PromptConfig)
    prefix: PrefixConfig = Field(default_factory=PrefixConfig)
    lpt: LatePromptConfig = Field(default_factory=LatePromptConfig)
    idpg: InstancePromptConfig = Field(default_factory=InstancePromptConfig)
    attempt: AttentivePromptConfig = Field(default_factory=AttentivePromptConfig)
    training: TrainingConfig = Field(default_factory=TrainingConfig)
    curriculum: CurriculumConfig = Field(default_factory=CurriculumConfig)
    sharing: SharingConfig = Field(default_factory=SharingConfig)
    warm_up: WarmUpConfig = Field(default_factory=WarmUpConfig)
    server: ServerConfig = Field(default_factory=ServerConfig)
    personal: PersonalConfig = Field(default_factory=PersonalConfig)
    fedalt: FedAltConfig = Field(default_factory=FedAltConfig)
    proximal: ProximalConfig = Field(default_factory=ProximalConfig)
    lengths: LengthsConfig = Field(default_factory=LengthsConfig)
    sparse: SparseConfig = Field(default_factory=SparseConfig)
    delta: DeltaConfig = Field(default_factory=DeltaConfig)
    adalora: AdaLoraConfig = Field(default_factory=AdaLoraConfig)
    settings: dict[str, Any] = Field(
        default_factory=dict,
        description="What a method that brings its own settings is told, such as one of another package; "
        "`fibecfed config --method NAME` lists them.",
    )
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig)
    cost: CostConfig = Field(default_factory=CostConfig)
    runtime: RuntimeConfig = Field(default_factory=RuntimeConfig)

    def __post_init__(self) -> None:
        """Settle the method, and check what single keys cannot: raises InputError for settings that contradict."""
        if self.method == "auto":  # settled here, so that whoever reads a configuration reads the method's name
            plus = task_name(self) == CLASSIFICATION and self.model.head == "pooled"
            object.__setattr__(self, "method", "fibecfed-plus" if plus else "fibecfed")
            object.__setattr__(self, "_left_open", True)
        if self.training.momentum and self.training.optimizer == "adamw":
            raise InputError("training.momentum only applies to training.optimizer=sgd; adamw has its own momentum.")
        if self.model.solves_head and self.model.head != "pooled":
            raise InputError(f"model.head_init={self.model.head_init} needs model.head=pooled.")
        if self.model.quantization == "4bit" and self.runtime.device not in ("cuda", "auto"):
            raise InputError("model.quantization=4bit needs a CUDA device; set runtime.device=cuda or auto.")
        if self.training.cache_mb not in ("auto", 0) and self.lora.dropout:
            raise InputError("training.cache_mb keeps what dropout would change; set lora.dropout=0 or cache_mb=auto.")
        if self.curriculum.fresh and self.curriculum.score != "random":
            raise InputError("curriculum.fresh only applies to curriculum.score=random.")
        if self.curriculum.unit == "batch" and self.curriculum.fresh:
            raise InputError("curriculum.fresh draws single examples; use curriculum.unit=example.")
        if self.adalora.start >= self.adalora.end:
            raise InputError(
                f"adalora.start={self.adalora.start} must be below adalora.end={self.adalora.end}: the budget falls "
                "between them."
            )
        another = self.curriculum.pacing not in (None, "competence")
        if another and self.curriculum.competence != CurriculumConfig().competence:
            raise InputError("curriculum.competence only applies to curriculum.pacing=competence.")
        if self.curriculum.pacing == "competence" and (
            self.curriculum.fresh or self.curriculum.importance or self.curriculum.unit == "batch"
        ):
            raise InputError(
                "curriculum.pacing=competence draws single examples by itself; leave curriculum.fresh, importance and "
                "unit as they are."
            )
        if (self.curriculum.refresh or self.curriculum.importance) and self.curriculum.score not in (None, "fisher"):
            raise InputError("curriculum.refresh and curriculum.importance need curriculum.score=fisher.")
        if self.evaluation.split == "validation" and not self.data.validation_fraction:
            raise InputError("evaluation.split=validation needs data.validation_fraction above 0.")
        check_task(self)

    @property
    def left_method_open(self) -> bool:
        """Whether this configuration was built with method=auto; a copy of it names the method."""
        return getattr(self, "_left_open", False)

    @property
    def dataset(self) -> str:
        """The name results are filed under: the data set's name, or the stem of the user's file or folder."""
        if not self.data.file:
            return self.data.name
        path = Path(self.data.file)
        fixed = list(itertools.takewhile(lambda part: not set("*?[") & set(part), path.parts))
        if len(fixed) == len(path.parts):
            return path.stem
        return fixed[-1] if fixed else "files"  # a glob: the folder it starts in
