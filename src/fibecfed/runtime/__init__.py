"""What carries a federation: this process, or (extra `flower`) many machines."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fibecfed.runtime.assembly import Learner, assemble, learner_of
    from fibecfed.runtime.evaluation import Evaluation, Evaluator, ResidentEvaluator, worst_tenth
    from fibecfed.runtime.experiment import Experiment, describe_adapter
    from fibecfed.runtime.handshake import Description, describe, differences, tokenizer_sha256
    from fibecfed.runtime.holdings import DevicesHere, Holdings
    from fibecfed.runtime.in_process import InProcessTransport
    from fibecfed.runtime.rehearsal import Rehearsed, rehearse

__all__ = [
    "Description",
    "DevicesHere",
    "Evaluation",
    "Evaluator",
    "Experiment",
    "Holdings",
    "InProcessTransport",
    "Learner",
    "Rehearsed",
    "ResidentEvaluator",
    "assemble",
    "describe",
    "describe_adapter",
    "differences",
    "learner_of",
    "rehearse",
    "tokenizer_sha256",
    "worst_tenth",
]

# Making certificates and starting Flower's server need nothing of this: torch (seconds) is imported with its first use.
_WHERE = {
    **dict.fromkeys(("Learner", "assemble", "learner_of"), "assembly"),
    **dict.fromkeys(("Evaluation", "Evaluator", "ResidentEvaluator", "worst_tenth"), "evaluation"),
    **dict.fromkeys(("Experiment", "describe_adapter"), "experiment"),
    **dict.fromkeys(("Description", "describe", "differences", "tokenizer_sha256"), "handshake"),
    **dict.fromkeys(("DevicesHere", "Holdings"), "holdings"),
    "InProcessTransport": "in_process",
    **dict.fromkeys(("Rehearsed", "rehearse"), "rehearsal"),
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"fibecfed.runtime.{_WHERE[name]}"), name)
