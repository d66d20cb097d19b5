"""One label out of C for each text: objective, metrics, closed-form heads and the label prior."""

from fibecfed.tasks.classification.closed_form import (
    HEAD_BIAS,
    HEAD_WEIGHT,
    device_sums,
    needs_features,
    problem,
    solve_head,
    sum_shapes,
)
from fibecfed.tasks.classification.objective import Classification, matthews, to_probabilities
from fibecfed.tasks.classification.prior import log_prior_ratio

__all__ = [
    "HEAD_BIAS",
    "HEAD_WEIGHT",
    "Classification",
    "device_sums",
    "log_prior_ratio",
    "matthews",
    "needs_features",
    "problem",
    "solve_head",
    "sum_shapes",
    "to_probabilities",
]
