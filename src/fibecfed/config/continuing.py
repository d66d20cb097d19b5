"""Which settings may differ between the beginning of a run and its going on, and sentences about those that may not."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fibecfed.config.loading import to_dict
from fibecfed.config.renamed import in_todays_keys
from fibecfed.config.schema import Config

# Where text and weights lie and how the files are written. What is read there is compared itself.
WHERE = (
    "data.dir",
    "data.file",
    "data.test_file",
    "data.text",
    "data.text_pair",
    "data.label",
    *(f"data.{key}" for key in ("prompt", "response", "context", "system", "messages")),
    "data.separator",
    "data.device",
    "data.allow_download",
    "model.dir",
    "model.name",
    "model.allow_download",
)
ROUNDS = "federation.rounds"
# How a run goes on from here: what it has learned so far stays what it is.
COURSE = (
    ROUNDS,
    "federation.deadline_seconds",
    "federation.minimum_replies",
    "evaluation.every",
    "evaluation.batch_size",
    "evaluation.patience",
    "training.cache_mb",
    "training.gradient_checkpointing",
    "training.cohort",
    "runtime.threads",
    "runtime.workers",
    "runtime.device",
    "runtime.device_states",
)
_SHOWN = 5  # differences that are named
_OWN = "settings."  # what a method brings itself: whatever its keys are, each that differs counts
_SPLIT = "evaluation.split"


@dataclass(frozen=True)
class Change:
    """A setting that differs from what a run began or last went on with; values as JSON has them."""

    key: str
    was: Any
    now: Any

    @property
    def allowed(self) -> bool:
        """Whether a run may go on with it; rounds can only become more."""
        if self.key == ROUNDS:
            return bool(self.now > self.was)
        return self.key in WHERE or self.key in COURSE

    def __str__(self) -> str:
        return (
            f"{self.key} was {json.dumps(self.was, ensure_ascii=False)}, now {json.dumps(self.now, ensure_ascii=False)}"
        )


def dotted(config: Config) -> dict[str, Any]:
    """Every setting that can make a difference by its dotted key, as JSON has it."""
    found = dict(_dotted(to_dict(config), ""))
    for key in ("runtime.workers", "training.cache_mb"):  # whatever they are, results are the same
        del found[key]
    return json.loads(json.dumps(found))


def _dotted(content: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def changes(before: Mapping[str, Any], config: Config) -> list[Change]:
    """What differs from the settings ``before``, by dotted key.

    A key that an earlier version did not know had its default then; one that is not known any more does not count.
    """
    unset, now = dotted(Config()), dotted(config)
    before = _in_todays_keys(before)
    now |= {key: None for key in before if key.startswith(_OWN) and key not in now}
    return [
        Change(key, before.get(key, unset.get(key)), value)
        for key, value in now.items()
        if value != before.get(key, unset.get(key))
    ]


def _in_todays_keys(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by dotted key, as ``in_todays_keys`` has nested ones."""
    mark = "personal."
    nested = {"personal": {key.removeprefix(mark): value for key, value in settings.items() if key.startswith(mark)}}
    others = {key: value for key, value in settings.items() if not key.startswith(mark)}
    return {**dict(_dotted(in_todays_keys(nested), "")), **others}


def refusal(found: Sequence[Change]) -> str | None:
    """Why a run cannot go on with these changes, and which it could; None if it can."""
    wrong = [change for change in found if not change.allowed]
    if not wrong:
        return None
    named = "; ".join(map(str, wrong[:_SHOWN])) + (f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else "")
    split = (
        " What is judged on the other split would not fit the curve so far; `fibecfed evaluate DIR --split` judges "
        "the model on either."
        if any(change.key == _SPLIT for change in wrong)
        else ""
    )
    return (
        f"{named}.{split} Set back what differs, or start another run. What may change: {ROUNDS} (upwards), "
        f"{', '.join(COURSE[1:])}, and where files lie ({', '.join(WHERE)}) while they hold the same."
    )
