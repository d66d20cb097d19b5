"""The local work of devices and the executor that runs it."""

from fibecfed.training.executor import Executor, SequentialExecutor, torch_device
from fibecfed.training.job import DeviceFailed, LocalResult, Observer, Penalty, TrainJob
from fibecfed.training.local import scheduled_rate

__all__ = [
    "DeviceFailed",
    "Executor",
    "LocalResult",
    "Observer",
    "Penalty",
    "SequentialExecutor",
    "TrainJob",
    "scheduled_rate",
    "torch_device",
]
