"""What a model is trained for."""

from fibecfed.tasks.base import Batch, Counts, Task
from fibecfed.tasks.classification import (
    Classification,
    log_prior_ratio,
    matthews,
    to_probabilities,
)

__all__ = [
    "Batch",
    "Classification",
    "Counts",
    "Task",
    "log_prior_ratio",
    "matthews",
    "to_probabilities",
]
