"""own_models.safetensors: the devices' own models, where a few small tensors are all that tells them apart."""

import shutil
from collections.abc import Mapping, Sequence

import torch
from safetensors.torch import save
from torch import Tensor

from fibecfed.errors import InputError
from fibecfed.results.directory import OWN_MODELS_FILE, RunDirectory
from fibecfed.tuning import read_tensors

_DEVICES = "devices"  # (K,) numbers; beside it each parameter as (K, *its shape)


class OwnModels:
    """Collects the parameters ``names`` of each device, which must be all that differs from the server's model."""

    def __init__(self, names: Sequence[str]) -> None:
        self._devices: list[int] = []
        self._rows: dict[str, list[Tensor]] = {name: [] for name in names}

    def add(self, device: int, model: Mapping[str, Tensor], server: Mapping[str, Tensor]) -> None:
        """Take what is a device's own. AssertionError if anything else in its model is not the server's, too."""
        for name, tensor in model.items():
            if name in self._rows:
                self._rows[name].append(tensor.detach().clone())
            else:
                assert tensor is server[name] or torch.equal(tensor, server[name]), f"{name} of device {device}"
        self._devices.append(device)

    def write(self, directory: RunDirectory) -> None:
        """The file, in place of adapters that an earlier version wrote. Raises RunFailed."""
        if not self._devices:
            return
        rows = {name: torch.stack(tensors).contiguous() for name, tensors in self._rows.items()}
        directory.write_bytes(OWN_MODELS_FILE, save({_DEVICES: torch.tensor(self._devices), **rows}))
        shutil.rmtree(directory.device_adapter(0).parent, ignore_errors=True)


def own_parameters(directory: RunDirectory, device: int) -> dict[str, Tensor] | None:
    """What is a device's own beside the server's adapter, by name; None where a run has no such file or device.

    Raises InputError if the file is broken.
    """
    path = directory.path / OWN_MODELS_FILE
    if not path.is_file():
        return None
    found = read_tensors(path)
    devices = found.pop(_DEVICES, torch.empty(0))
    if devices.dim() != 1 or not found or any(t.shape[:1] != devices.shape for t in found.values()):
        raise InputError(f"'{path}' does not hold a row for each device; it was changed.")
    row = (devices == device).nonzero().flatten().tolist()
    return {name: tensor[row[0]] for name, tensor in found.items()} if row else None
