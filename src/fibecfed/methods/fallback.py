"""A device takes the shared model where its own is not better on examples that neither of them saw there.

Source: project decision (docs/method.md section 8 [D]).
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from fibecfed.config import Config
from fibecfed.errors import InputError
from fibecfed.federation import Device
from fibecfed.training import CountJob, CountResult


def refuse_fallback(config: Config, method: str, has_shared: bool, has_own: bool) -> None:
    """Raise InputError for a fallback of a method that has no two models to choose from."""
    if config.personal.fallback != "held-out" or (has_shared and has_own):
        return
    if not has_shared:
        raise InputError(
            f"method={method} has no shared model that a device could fall back to; set personal.fallback to none."
        )
    raise InputError(
        f"With these settings method={method} gives a device nothing of its own to fall back from; set "
        "personal.fallback to none, or give each device a head with personal.head=fitted or trained."
    )


def stands(device: Device, own: Mapping[str, Tensor], shared: Mapping[str, Tensor]) -> bool:
    """Whether a device's own model stands beside the ``shared`` one: it has the lower loss on what was kept out.

    With nothing kept out it stays, too.
    """
    if not len(device.kept_out) or all(t is shared[n] or torch.equal(t, shared[n]) for n, t in own.items()):
        return True
    return _loss(device, own) < _loss(device, shared)


def _loss(device: Device, model: Mapping[str, Tensor]) -> float:
    job = CountJob(device.number, model, device.site.data.train, device.kept_out)
    found: CountResult = device.site.executor.result(job)
    return float(found.counts.values["loss"].sum())
