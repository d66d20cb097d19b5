"""Federated fine-tuning of language models on text that may not leave its sites."""

from fibecfed.config import Config, load_config
from fibecfed.errors import FibecFedError, InputError, RunFailed
from fibecfed.evaluating import evaluate_run
from fibecfed.experiment import Callback, RunResult, resume, run
from fibecfed.prediction import Classifier, Prediction, load

__version__ = "0.1.0"

__all__ = [
    "Callback",
    "Classifier",
    "Config",
    "FibecFedError",
    "InputError",
    "Prediction",
    "RunFailed",
    "RunResult",
    "__version__",
    "evaluate_run",
    "load",
    "load_config",
    "resume",
    "run",
]
