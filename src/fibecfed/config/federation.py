"""Settings of who meets how often; who the devices are may be left to the data (``settle``)."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from fibecfed.errors import InputError

DEVICES = 20  # where the data names none
SAMPLED = 5  # where there are as many


@dataclass(config=ConfigDict(extra="forbid"), frozen=True)
class FederationConfig:
    """How many devices there are and how often they meet."""

    devices: Annotated[
        int | None,
        Field(ge=1, description="Devices in the federation. None: as many as the data names (column), else 20."),
    ] = None
    sampled: Annotated[
        int | None,
        Field(ge=1, description="Devices that take part in each round. None: 5, or all where there are fewer."),
    ] = None
    rounds: Annotated[int, Field(ge=1, description="Rounds, any warm-up included.")] = 20
    minimum_replies: Annotated[
        int, Field(ge=1, description="Replies without which a round fails and the run stops, resumable.")
    ] = 1
    maximum_norm: Annotated[
        float,
        Field(
            gt=0,
            description="A reply whose parameters moved further than this (Euclidean norm) from those sent is left "
            "out. The default only catches the absurd.",
        ),
    ] = 1e6
    maximum_examples: Annotated[
        int,
        Field(
            ge=1,
            description="A reply that claims more training examples than this, its weight in the mean, is left out.",
        ),
    ] = 100_000_000
    deadline_seconds: Annotated[
        float, Field(gt=0, description="How long the server waits for the replies of a round.")
    ] = 3600.0
    aggregation: Annotated[
        Literal["mean", "median"],
        Field(
            description="mean: weighted by training examples; median: per coordinate, unweighted, robust to outliers."
        ),
    ] = "mean"
    compression: Annotated[
        Literal["none", "bf16", "int8", "top-k"],
        Field(
            description="How parameters are sent, both ways. none: float32; bf16: half the bytes; int8: a quarter, "
            "rounded at random with error feedback; top-k: the largest part of each change up, int8 down. Small "
            "parameters, sums and scores always stay as they are."
        ),
    ] = "none"
    top_share: Annotated[
        float | None,
        Field(
            gt=0,
            lt=1,
            description="With compression=top-k, the part of each matrix's change that is sent up. None: 0.1.",
        ),
    ] = None

    def __post_init__(self) -> None:
        """Raise InputError for settings that contradict each other."""
        if self.top_share is not None and self.compression != "top-k":
            raise InputError(
                f"federation.top_share={self.top_share} only applies to federation.compression=top-k, and that is "
                f"{self.compression}; set compression to top-k or leave top_share out."
            )
        if self.sampled is not None and self.sampled > (self.devices or self.sampled):
            raise InputError(
                f"federation.sampled is {self.sampled} but there are only {self.devices} devices "
                "(federation.devices); sample at most that many."
            )
        asked = self.sampled or min(SAMPLED, self.devices or SAMPLED)
        if self.minimum_replies > asked:
            raise InputError(
                f"federation.minimum_replies is {self.minimum_replies} but only {asked} "
                "devices are asked in a round (federation.sampled)."
            )

    @property
    def device_count(self) -> int:
        """``devices`` of settings that were settled with the data (``settle``)."""
        assert self.devices is not None, "settle(config, sites) says how many devices there are"
        return self.devices

    @property
    def cohort_size(self) -> int:
        """``sampled`` of settings that were settled with the data (``settle``)."""
        assert self.sampled is not None, "settle(config, sites) says how many devices are sampled"
        return self.sampled
