"""Which torch device a run works on."""

import torch

from fibecfed.errors import InputError


def torch_device(name: str) -> torch.device:
    """The torch device of runtime.device. Raises InputError if this machine does not have it."""
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(kind for kind, there in available.items() if there)
    if not available[name]:
        raise InputError(f"runtime.device={name}, but torch finds no such device here; use cpu or auto.")
    return torch.device(name)
