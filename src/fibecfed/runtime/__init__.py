"""What carries a federation: this process, or (extra `flower`) many machines."""

from fibecfed.runtime.assembly import Evaluator, Experiment, Learner, assemble, learner_of
from fibecfed.runtime.evaluation import Evaluation, ResidentEvaluator, worst_tenth
from fibecfed.runtime.handshake import Description, describe, differences, tokenizer_sha256
from fibecfed.runtime.in_process import InProcessTransport

__all__ = [
    "Description",
    "Evaluation",
    "Evaluator",
    "Experiment",
    "InProcessTransport",
    "Learner",
    "ResidentEvaluator",
    "assemble",
    "describe",
    "differences",
    "learner_of",
    "tokenizer_sha256",
    "worst_tenth",
]
