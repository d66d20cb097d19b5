"""Federated fine-tuning of language models on text that may not leave its sites."""

from fibecfed.callbacks import Callback, EarlyStopping, TensorBoard, Trackio
from fibecfed.config import Config, load_config
from fibecfed.errors import FibecFedError, InputError, RunFailed
from fibecfed.evaluating import evaluate_run
from fibecfed.experiment import RunResult, resume, run
from fibecfed.prediction import Classifier, Prediction, load

__version__ = "0.1.0"

__all__ = [
    "Callback",
    "Classifier",
    "Config",
    "EarlyStopping",
    "FibecFedError",
    "InputError",
    "Prediction",
    "RunFailed",
    "RunResult",
    "TensorBoard",
    "Trackio",
    "__version__",
    "evaluate_run",
    "load",
    "load_config",
    "resume",
    "run",
]
