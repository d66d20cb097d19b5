"""What a classifier says of a text, and how that is shown."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Prediction:
    """The most probable label of a text, and the probability of each."""

    label: str
    probabilities: dict[str, float]
