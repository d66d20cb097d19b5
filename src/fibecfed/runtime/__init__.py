"""What carries a federation: this process, or (extra `flower`) many machines."""

from fibecfed.runtime.assembly import Evaluator, Experiment, Learner, assemble, learner_of
from fibecfed.runtime.evaluation import Evaluation, ResidentEvaluator, worst_tenth
from fibecfed.runtime.handshake import Description, describe, differences
from fibecfed.runtime.in_process import InProcessTransport
from fibecfed.runtime.rehearsal import Rehearsed, rehearse

__all__ = [
    "Description",
    "Evaluation",
    "Evaluator",
    "Experiment",
    "InProcessTransport",
    "Learner",
    "Rehearsed",
    "ResidentEvaluator",
    "assemble",
    "describe",
    "differences",
    "learner_of",
    "rehearse",
    "worst_tenth",
]
