"""What carries a federation: this process, or (extra `flower`) many machines."""

from fibecfed.runtime.assembly import Experiment, assemble
from fibecfed.runtime.evaluation import Evaluation, ResidentEvaluator, worst_tenth
from fibecfed.runtime.handshake import Description, describe, differences
from fibecfed.runtime.in_process import InProcessTransport

__all__ = [
    "Description",
    "Evaluation",
    "Experiment",
    "InProcessTransport",
    "ResidentEvaluator",
    "assemble",
    "describe",
    "differences",
    "worst_tenth",
]
