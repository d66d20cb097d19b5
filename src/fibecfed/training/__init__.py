"""The local work of devices and the executor that runs it."""

from fibecfed.training.cohort_executor import CohortExecutor
from fibecfed.training.cores import WorkerCount, cores_here, use_cores, worker_count
from fibecfed.training.executor import Executor, Resident, SequentialExecutor
from fibecfed.training.job import (
    AnswerJob,
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
from fibecfed.training.spread import SpreadExecutor
from fibecfed.training.torch_devices import torch_device

__all__ = [
    "AnswerJob",
    "CohortExecutor",
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
    "Resident",
    "Result",
    "ScoreJob",
    "ScoreResult",
    "SequentialExecutor",
    "SpreadExecutor",
    "TrainJob",
    "WorkerCount",
    "cores_here",
    "scheduled_rate",
    "torch_device",
    "use_cores",
    "worker_count",
]
