"""What carries a federation: this process, or (extra `flower`) many machines."""

from fibecfed.runtime.assembly import Experiment, assemble
from fibecfed.runtime.evaluation import Evaluation, ResidentEvaluator, worst_tenth
from fibecfed.runtime.in_process import InProcessTransport

__all__ = ["Evaluation", "Experiment", "InProcessTransport", "ResidentEvaluator", "assemble", "worst_tenth"]
