"""How sure the model is of a device's examples, and the part of them that it takes for right (curriculum.cap=auto)."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fibecfed.curriculum.clean_part import clean_part, confidence_sums
from fibecfed.federation import Device, DeviceState
from fibecfed.methods.fibecfed_parts.initialization import CHANCES

CONFIDENCE = "confidence"  # (2, G) in replies and at the server: sums that say when a model is sure of a group


def clean_part_of(device: Device, pooled: Any) -> float:
    """The part of a device's examples that is right; ``pooled`` (2, G): what the server knows, None: nothing yet."""
    state = device.state
    if state is None or CHANCES not in state.memory:
        return 1.0
    sums = confidence_of(device, state).numpy() if pooled is None else np.asarray(pooled, dtype=np.float64)
    return clean_part(state.memory[CHANCES].numpy(), device.site.data.train.groups[device.indices], sums)


def confidence_of(device: Device, state: DeviceState) -> Tensor:
    """(2, G) float64, the ``confidence_sums`` of what the device kept of its scoring."""
    groups = device.site.data.train.groups[device.indices]
    return torch.from_numpy(confidence_sums(state.memory[CHANCES].double().numpy(), groups))
