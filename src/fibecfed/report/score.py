"""Scores as a report shows them: a share in percent, a loss as it is."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fibecfed.results import metric_of, sign_of


def plain(value: float) -> str:
    """A number of no unit, for tables; a dash for what is none."""
    return f"{value:.4g}" if math.isfinite(value) else "-"


@dataclass(frozen=True)
class Score:
    """The main metric of runs. ``sign``: 1 where a higher one is better, -1 where a lower one is."""

    metric: str
    sign: int

    @staticmethod
    def of(records: Sequence[Mapping[str, Any]]) -> "Score":
        """As the evaluations of a run name it."""
        return Score(metric_of(records), sign_of(records))

    @property
    def scale(self) -> float:
        """What values are multiplied by for the eye."""
        return 100.0 if self.sign > 0 else 1.0

    @property
    def axis(self) -> str:
        """The title of an axis, with the unit."""
        return f"{self.metric} (%)" if self.sign > 0 else f"{self.metric} (nats a token)"

    def text(self, value: float | None) -> str:
        """A score with its unit; a dash where there is none."""
        if value is None:
            return "-"
        return f"{value * self.scale:.1f} %" if self.sign > 0 else f"{value:.3f}"

    def number(self, value: float | None) -> str:
        """The same without the unit."""
        return self.text(value).removesuffix(" %")

    @property
    def better(self) -> str:
        """In which direction better scores lie."""
        return "higher is better" if self.sign > 0 else "lower is better"
