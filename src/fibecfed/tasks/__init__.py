"""What a model is trained for."""

from fibecfed.tasks.base import (
    HEAD_BIAS,
    HEAD_WEIGHT,
    IGNORED,
    Answering,
    Batch,
    Counts,
    Encoded,
    FittedHead,
    Form,
    Sums,
    Task,
    TextRows,
)
from fibecfed.tasks.causal_lm import CausalLanguageModel, Conversation
from fibecfed.tasks.classification import (
    Classification,
    Prediction,
    log_prior_ratio,
    matthews,
    to_probabilities,
)
from fibecfed.tasks.kinds import TASKS, task_kind

__all__ = [
    "HEAD_BIAS",
    "HEAD_WEIGHT",
    "IGNORED",
    "TASKS",
    "Answering",
    "Batch",
    "CausalLanguageModel",
    "Classification",
    "Conversation",
    "Counts",
    "Encoded",
    "FittedHead",
    "Form",
    "Prediction",
    "Sums",
    "Task",
    "TextRows",
    "log_prior_ratio",
    "matthews",
    "task_kind",
    "to_probabilities",
]
