"""One label out of C for each text: objective, metrics, closed-form heads and the label prior."""

from fibecfed.tasks.classification.objective import Classification, label_proportions, matthews, to_probabilities
from fibecfed.tasks.classification.prediction import Prediction
from fibecfed.tasks.classification.prior import log_prior_ratio

__all__ = [
    "Classification",
    "Prediction",
    "label_proportions",
    "log_prior_ratio",
    "matthews",
    "to_probabilities",
]
