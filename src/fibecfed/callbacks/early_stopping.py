"""Ending a run that gets no better."""

from collections.abc import Sequence

from fibecfed.callbacks.protocol import Callback, Record
from fibecfed.federation import ServerState, StageDone
from fibecfed.results import score_of, sign_of
from fibecfed.runtime import Experiment


class EarlyStopping(Callback):
    """Stops when the global score has not become better than its best for ``patience`` evaluations.

    What it knows follows from the evaluations alone, so a resumed run stops where an uninterrupted one does.
    Evaluated on the test set it would be chosen on the test set: use evaluation.split=validation (project decision).
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self._scores: dict[int, float] = {}  # by round, the higher the better; a later evaluation may replace one

    def started(self, experiment: Experiment, state: ServerState, records: Sequence[Record]) -> None:
        """Take up the evaluations of an earlier part of the run."""
        self._scores = {record["round"]: sign_of([record]) * score_of(record, "global") for record in records}

    def stage_done(self, done: StageDone, record: Record | None) -> bool:
        """Take up an evaluation."""
        if record is None:
            return False
        self._scores[record["round"]] = sign_of([record]) * score_of(record, "global")
        return self.exhausted

    @property
    def exhausted(self) -> bool:
        """Whether ``patience`` evaluations have passed since the best one."""
        values = list(self._scores.values())
        return bool(values) and len(values) - 1 - values.index(max(values)) >= self.patience
