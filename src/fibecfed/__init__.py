"""Federated fine-tuning of language models on text that may not leave its sites."""

import importlib
from typing import TYPE_CHECKING, Any

from fibecfed.importing import uncollected

if TYPE_CHECKING:
    from fibecfed.callbacks import Callback, EarlyStopping, TensorBoard, Trackio
    from fibecfed.config import Config, load_config
    from fibecfed.errors import FibecFedError, InputError, RunFailed
    from fibecfed.runs.answering import LanguageModel, load_language_model
    from fibecfed.runs.chatting import Chat
    from fibecfed.runs.evaluate_run import evaluate_run
    from fibecfed.runs.merging import export_merged
    from fibecfed.runs.prediction import Classifier, Prediction, load
    from fibecfed.runs.run import RunResult, resume, run

__version__ = "0.1.0"

__all__ = [
    "Callback",
    "Chat",
    "Classifier",
    "Config",
    "EarlyStopping",
    "FibecFedError",
    "InputError",
    "LanguageModel",
    "Prediction",
    "RunFailed",
    "RunResult",
    "TensorBoard",
    "Trackio",
    "__version__",
    "evaluate_run",
    "export_merged",
    "load",
    "load_config",
    "load_language_model",
    "resume",
    "run",
]

# What takes long to import (torch and transformers seconds, pydantic a part of one) is imported when it is first used.
_WHERE = {
    **dict.fromkeys(("Config", "load_config"), "config"),
    **dict.fromkeys(("Callback", "EarlyStopping", "TensorBoard", "Trackio"), "callbacks"),
    **dict.fromkeys(("FibecFedError", "InputError", "RunFailed"), "errors"),
    "Chat": "runs.chatting",
    "evaluate_run": "runs.evaluate_run",
    "export_merged": "runs.merging",
    **dict.fromkeys(("LanguageModel", "load_language_model"), "runs.answering"),
    **dict.fromkeys(("RunResult", "resume", "run"), "runs.run"),
    **dict.fromkeys(("Classifier", "Prediction", "load"), "runs.prediction"),
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with uncollected():
        return getattr(importlib.import_module(f"fibecfed.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
