"""One label out of C for each text: objective, metrics, closed-form heads and the label prior."""

from fibecfed.tasks.classification.objective import Classification, matthews, to_probabilities
from fibecfed.tasks.classification.prediction import Prediction
from fibecfed.tasks.classification.prior import log_prior_ratio

__all__ = [
    "Classification",
    "Prediction",
    "log_prior_ratio",
    "matthews",
    "to_probabilities",
]
