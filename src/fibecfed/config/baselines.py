"""The settings of single baselines. A section that a method does not use may not be set with it."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

_STRICT_KEYS = ConfigDict(extra="forbid")


@dataclass(config=_STRICT_KEYS, frozen=True)
class ServerConfig:
    """The server's optimizer over the averaged change (moms-adamd)."""

    momentum: Annotated[float, Field(ge=0, lt=1, description="beta of v = beta v + averaged change.")] = 0.9
    rate: Annotated[float, Field(gt=0, description="Server learning rate of x = x + rate v.")] = 1.0


@dataclass(config=_STRICT_KEYS, frozen=True)
class FedAltConfig:
    """What stays on its device (fedalt)."""

    layers: Annotated[
        int | float,
        Field(
            ge=0,
            description="Uppermost layers whose LoRA stays: a number, a fraction (with a decimal point), 0 none.",
        ),
    ] = 0.5
    head: Annotated[bool, Field(description="Whether the head stays; the global model's head is then untrained.")] = (
        False
    )
    passes: Annotated[
        Literal["split", "full"],
        Field(
            description="split: the two parts share the steps of a round; full: each part gets all of them, as in the "
            "paper, at about twice the cost."
        ),
    ] = "split"


@dataclass(config=_STRICT_KEYS, frozen=True)
class ProximalConfig:
    """The pull of local training towards the model that was received (fedprox)."""

    mu: Annotated[float, Field(ge=0, description="mu of mu/2 ||w - w_received||^2, added to the loss.")] = 0.01


@dataclass(config=_STRICT_KEYS, frozen=True)
class SparseConfig:
    """Sparse tuning of the backbone before LoRA (slora)."""

    rounds: Annotated[
        int | None,
        Field(ge=0, description="Rounds of it, counted in federation.rounds. None: a fifth of them, at least one."),
    ] = None
    density: Annotated[float, Field(gt=0, le=1, description="Part of each weight's entries that trains.")] = 0.01


@dataclass(config=_STRICT_KEYS, frozen=True)
class DeltaConfig:
    """The move of the backbone's weights with LoRA (delta-lora)."""

    ratio: Annotated[
        float, Field(ge=0, description="lambda: the part of LoRA's change that a weight makes too. 0: none.")
    ] = 0.5
    start: Annotated[
        int | None, Field(ge=0, description="Rounds before the weights move. None: a tenth of the rounds.")
    ] = None


@dataclass(config=_STRICT_KEYS, frozen=True)
class AdaLoraConfig:
    """The rank budget (adalora); lora.rank is the mean rank that remains."""

    init_rank: Annotated[
        int | None, Field(ge=1, description="Rank of every map at the start. None: 1.5 x lora.rank, rounded up.")
    ] = None
    start: Annotated[float, Field(ge=0, lt=1, description="Part of the rounds before the budget falls.")] = 0.1
    end: Annotated[float, Field(gt=0, le=1, description="Part of the rounds after which it is lora.rank a map.")] = 0.7
    orthogonality: Annotated[
        float, Field(ge=0, description="gamma of the penalty ||P^T P - I||^2 + ||Q Q^T - I||^2 of each map.")
    ] = 0.1
    beta1: Annotated[float, Field(ge=0, lt=1, description="Smoothing of a step's sensitivity.")] = 0.85
    beta2: Annotated[float, Field(ge=0, lt=1, description="Smoothing of its uncertainty.")] = 0.85


@dataclass(config=_STRICT_KEYS, frozen=True)
class LengthsConfig:
    """Short texts first (slw, shortformer)."""

    start: Annotated[
        float,
        Field(gt=0, le=1, description="Quantile of a device's text lengths that its texts are cut to at first."),
    ] = 0.25
    full_at: Annotated[float, Field(gt=0, le=1, description="Part of the rounds after which texts are whole.")] = 0.5
