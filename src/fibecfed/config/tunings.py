"""The settings of each kind of tuning other than LoRA. A section counts only for the methods whose kind uses it."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from fibecfed.config.paths import HOME

_STRICT_KEYS = ConfigDict(extra="forbid")

TuningName = Literal[
    "lora",
    "sparse-lora",
    "delta-lora",
    "svd-lora",
    "adapter",
    "prompt",
    "prefix",
    "late-prompt",
    "instance-prompt",
    "attentive-prompt",
]


@dataclass(config=_STRICT_KEYS, frozen=True)
class AdapterConfig:
    """Bottleneck adapters (Houlsby et al. 2019); kind `adapter`."""

    width: Annotated[int, Field(ge=1, description="Width m of the bottleneck.")] = 32


@dataclass(config=_STRICT_KEYS, frozen=True)
class PromptConfig:
    """A soft prompt before the text; kinds `prompt`, `late-prompt`, `instance-prompt` and `attentive-prompt`."""

    length: Annotated[
        int, Field(ge=1, description="Vectors of the prompt; each takes one of the model's positions.")
    ] = 20
    init: Annotated[
        Literal["vocabulary", "random"] | None,
        Field(
            description="Where a prompt that is trained directly starts. vocabulary: embeddings of tokens drawn from "
            "the vocabulary; random: normal numbers with the embeddings' spread. None: the method decides."
        ),
    ] = None


@dataclass(config=_STRICT_KEYS, frozen=True)
class PrefixConfig:
    """Keys and values before those of the text in every layer (P-tuning v2); kind `prefix`."""

    length: Annotated[
        int, Field(ge=1, description="Key and value vectors a layer gets; each takes one of the model's positions.")
    ] = 20


@dataclass(config=_STRICT_KEYS, frozen=True)
class LatePromptConfig:
    """Late prompt tuning (Liu et al. 2022); kind `late-prompt`."""

    layer: Annotated[
        int | None,
        Field(ge=1, description="Layer (from 0) that the prompt enters. None: the middle one, L / 2 rounded down."),
    ] = None
    width: Annotated[int, Field(ge=1, description="Width of the network that makes the prompt.")] = 32


@dataclass(config=_STRICT_KEYS, frozen=True)
class InstancePromptConfig:
    """Instance-dependent prompts (IDPG, Wu et al. 2022); kind `instance-prompt`."""

    width: Annotated[int, Field(ge=1, description="Width of the network that makes the prompt.")] = 32


@dataclass(config=_STRICT_KEYS, frozen=True)
class AttentivePromptConfig:
    """A mixture of frozen source prompts and a trained one (ATTEMPT, Asai et al. 2022); kind `attentive-prompt`."""

    sources: Annotated[list[str], HOME] = Field(
        default_factory=list,
        description="Directories of finished runs of prompt-tuning or fedprompt on other data sets, whose prompts are "
        "the frozen sources. Empty: prompts drawn from the vocabulary.",
    )
    drawn: Annotated[int, Field(ge=1, description="Source prompts drawn from the vocabulary if none are given.")] = 4
    width: Annotated[int, Field(ge=1, description="Width of the attention's network.")] = 64
