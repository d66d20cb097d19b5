"""What the runs of a comparison are judged by, and how tables show it: a share in percent, a loss as it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fibecfed.comparison.tables import Column
from fibecfed.report import Score
from fibecfed.results import LOWER, metric_of, sign_of


@dataclass(frozen=True)
class Judged(Score):
    """The score of a task, with the words that tables and logs have for it."""

    @staticmethod
    def of(curve: Sequence[Mapping[str, Any]]) -> "Judged":
        """As the evaluations of a run name it, or one line of a log; of shares a line says nothing."""
        return Judged(metric_of(curve), sign_of(curve))

    def named(self) -> dict[str, Any]:
        """What a line of a log says of it; nothing of a share, so that lines stay as they were."""
        if self == Judged.of([{}]):
            return {}
        return {"metric": self.metric, **({LOWER: True} if self.sign < 0 else {})}

    @property
    def unit(self) -> str:
        """What scores are given in."""
        return "Accuracies in percent" if self.sign > 0 else f"{self.metric.capitalize()} in nats a token"

    @property
    def plural(self) -> str:
        """What several scores are called."""
        return "accuracies" if self.sign > 0 else "losses"

    @property
    def difference(self) -> str:
        """What differences are given in."""
        return "Points" if self.sign > 0 else "Nats a token"

    def column(self, name: str, signed: bool = False) -> Column:
        """A column of scores, or of their differences."""
        return Column(name, 1, 100.0, signed) if self.sign > 0 else Column(name, 3, 1.0, signed)
