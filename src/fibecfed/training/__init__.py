"""The local work of devices and the executor that runs it."""

from fibecfed.training.executor import Executor, SequentialExecutor, torch_device
from fibecfed.training.job import (
    CountJob,
    CountResult,
    CurvatureJob,
    CurvatureResult,
    DeviceFailed,
    FeaturesJob,
    FeaturesResult,
    Job,
    LayerNoise,
    LocalResult,
    Observer,
    Penalty,
    Result,
    ScoreJob,
    ScoreResult,
    TrainJob,
)
from fibecfed.training.local import scheduled_rate

__all__ = [
    "CountJob",
    "CountResult",
    "CurvatureJob",
    "CurvatureResult",
    "DeviceFailed",
    "Executor",
    "FeaturesJob",
    "FeaturesResult",
    "Job",
    "LayerNoise",
    "LocalResult",
    "Observer",
    "Penalty",
    "Result",
    "ScoreJob",
    "ScoreResult",
    "SequentialExecutor",
    "TrainJob",
    "scheduled_rate",
    "torch_device",
]
