"""What may watch a run, and stop it."""

from fibecfed.callbacks.early_stopping import EarlyStopping
from fibecfed.callbacks.progress import RunProgress
from fibecfed.callbacks.protocol import Callback, Record
from fibecfed.callbacks.tensorboard import TensorBoard
from fibecfed.callbacks.trackio import Trackio

__all__ = ["Callback", "EarlyStopping", "Record", "RunProgress", "TensorBoard", "Trackio"]
