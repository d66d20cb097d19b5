"""How sure the model is of a device's examples, and which of them it doubts (curriculum.cap=auto)."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fibecfed.curriculum.clean_part import LEAST_WRONG, Suspicion, confidence_sums, suspicion
from fibecfed.federation import Device, DeviceState
from fibecfed.methods.fibecfed_parts.initialization import CHANCES, DIFFICULTY

CONFIDENCE = "confidence"  # (2, G + 1) in replies and at the server: the sums of each group; what is wrong, and sure
TOLD = "confidence told"  # in a device's memory: its own are among the server's


def doubtful_of(device: Device, pooled: Any) -> np.ndarray | None:
    """(n,) bool, the examples that take no part; None: all do. ``pooled`` (2, G + 1): what the server knows, or None.

    Nothing is left out where little is wrong over all devices that were scored so far (docs/method.md section 4).
    """
    state = device.state
    if state is None or CHANCES not in state.memory:
        return None
    everybody = np.zeros(()) if pooled is None else np.asarray(pooled, dtype=np.float64)
    if pooled is None or TOLD not in state.memory:
        everybody = everybody + confidence_of(device, state, pooled).numpy()
    wrong, sure = everybody[:, -1]
    if wrong < LEAST_WRONG * sure or sure == 0:
        return None
    return _suspicion(device, state, everybody[:, :-1]).doubtful(state.memory[DIFFICULTY].numpy())


def confidence_of(device: Device, state: DeviceState, pooled: Any) -> Tensor:
    """(2, G + 1) float64: the ``confidence_sums`` of what the device kept of its scoring, and its wrong and sure ones.

    The thresholds are those of its own examples and of what the server knows.
    """
    groups = device.site.data.train.groups[device.indices]
    sums = confidence_sums(state.memory[CHANCES].double().numpy(), groups)
    known = sums if pooled is None else sums + np.asarray(pooled, dtype=np.float64)[:, :-1]
    found = _suspicion(device, state, known)
    return torch.from_numpy(np.column_stack([sums, [found.wrong, found.sure]]))


def _suspicion(device: Device, state: DeviceState, sums: np.ndarray) -> Suspicion:
    groups = device.site.data.train.groups[device.indices]
    return suspicion(state.memory[CHANCES].numpy(), groups, sums)
