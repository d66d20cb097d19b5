"""What a run keeps when it is given more rounds than it began with."""

import dataclasses
from collections.abc import Collection
from typing import Any

from fibecfed.config import Config
from fibecfed.federation import ServerState
from fibecfed.tuning import delta_start, sparse_rounds


def settled_by_rounds(config: Config, before: int, state: ServerState, sections: Collection[str]) -> dict[str, Any]:
    """Settings left to the number of rounds that rounds already done have settled: what they came to then, nested.

    ``before``: federation.rounds until now; ``sections``: those that the method reads.
    """
    if state.round == 0:
        return {}
    first = dataclasses.replace(config, federation=dataclasses.replace(config.federation, rounds=before))
    found: dict[str, Any] = {}
    if "sparse" in sections and config.sparse.rounds is None:
        found["sparse"] = {"rounds": sparse_rounds(first)}
    if "delta" in sections and config.delta.start is None:
        found["delta"] = {"start": delta_start(first)}
    if "warm_up" in sections and config.warm_up.rounds is None and before == 1:  # so few rounds have no warm-up
        found["warm_up"] = {"rounds": 0}
    return found
