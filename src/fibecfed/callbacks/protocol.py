"""What a callback is told; ``run`` and ``resume`` take any number of them."""

from collections.abc import Mapping, Sequence
from typing import Any

from fibecfed.federation import ServerState, StageDone
from fibecfed.runtime import Experiment

Record = Mapping[str, Any]  # a line of metrics.jsonl


class Callback:
    """Watches a run; any of them may stop it. Subclasses take what they need."""

    def started(self, experiment: Experiment, state: ServerState, records: Sequence[Record]) -> None:
        """Before the first stage, or the first after a resume; ``records`` are the evaluations until then."""
        return

    def stage_done(self, done: StageDone, record: Record | None) -> bool:
        """After each stage, with the evaluation if there was one. True stops the run, as if it were over."""
        return False

    def ended(self) -> None:
        """The run is over, was stopped, or failed; called once, whatever happened."""
        return
