"""What a device's own model says otherwise than the model it was received as: its head.

Source: project decision (docs/method.md section 8 [D]); the trained head is Fed-RoD's (Chen and Chao, ICLR 2022).
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from fibecfed.config import Config
from fibecfed.errors import InputError
from fibecfed.federation import Device, ServerState, Site
from fibecfed.methods.once import OncePerState
from fibecfed.methods.stages.second_head import kept_head
from fibecfed.seeding import stream
from fibecfed.tasks import HEAD_BIAS, HEAD_WEIGHT, FittedHead, Sums, task_kind
from fibecfed.training import FeaturesJob, FeaturesResult
from fibecfed.tuning import Layout


class OwnHead:
    """The device's proportions, and a head of its own, in the pooled head of a model.

    ``has_prior``: every device's own model has log(pi_k / pi) in its bias, whatever the loss was.
    """

    def __init__(self, config: Config, layout: Layout, method: str, has_prior: bool) -> None:
        """Raises InputError where there is no head that could hold it."""
        self.config = config
        self.task = task_kind(config)
        self.kind = config.personal.head or "none"
        self.has_prior = has_prior or config.training.loss == "prior_corrected" or self.kind == "fitted"
        self._fits = OncePerState[FittedHead]()
        shapes = {p.name: p.shape for p in layout}
        self.outputs = shapes[HEAD_BIAS][0] if HEAD_BIAS in shapes else 0
        if self.is_on and not {HEAD_WEIGHT, HEAD_BIAS} <= shapes.keys():
            setting = f"personal.head={self.kind}" if self.kind != "none" else f"training.loss={config.training.loss}"
            setting = f"method={method}" if has_prior and self.kind == "none" else setting
            raise InputError(
                f"{setting} gives each device's own model a head of its own, which needs model.head=pooled; a native "
                "head may have no bias, or more than one layer."
            )

    @property
    def is_on(self) -> bool:
        """Whether a device's own model differs in its head from what it received and keeps."""
        return self.has_prior or self.kind != "none"

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters in which it differs."""
        return (HEAD_BIAS,) if self.kind == "none" else (HEAD_WEIGHT, HEAD_BIAS)

    def sums(self) -> Sums:
        """The sums over all devices that it needs."""
        return self.task.prior_sums(self.outputs) if self.has_prior else {}

    def look_ahead(self, site: Site, devices: Sequence[int], state: ServerState) -> None:
        """Let fits of these devices, whose model is the server's but for the head, pass their texts together."""
        if self.kind == "fitted" and devices:
            indices = np.concatenate([site.data.devices.indices(number) for number in devices])  # kept out or not
            site.executor.features.share(state.tensors)
            site.executor.features.vectors(state.tensors, site.data.train, indices)

    def in_place(self, device: Device, state: ServerState, model: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A device's ``model`` with the device's own head."""
        offset = self._offset(device, state)
        if self.kind == "fitted":
            fitted = self._fitted(device, state, model, offset)
            return {**model, HEAD_WEIGHT: fitted.weight, HEAD_BIAS: fitted.bias}
        kept = kept_head(device.state) if self.kind == "trained" else {}
        if kept:  # its bias began with the offset
            return {**model, **{name: model[name] + change for name, change in kept.items()}}
        return self.with_proportions(device, state, model)

    def with_proportions(self, device: Device, state: ServerState, model: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A ``model`` with nothing of the device's but its proportions, where own models have them."""
        offset = self._offset(device, state)
        return dict(model) if offset is None else {**model, HEAD_BIAS: model[HEAD_BIAS] + offset}

    def strength(self, device: Device, state: ServerState, model: Mapping[str, Tensor]) -> float | None:
        """The strength of the pull that it chose for a fitted head to its ``model``; None: no fit."""
        return self._fitted(device, state, model, self._offset(device, state)).strength

    def _offset(self, device: Device, state: ServerState) -> Tensor | None:
        return self.task.prior_offset(state.memory, device.group_counts) if self.has_prior else None

    def _fitted(
        self, device: Device, state: ServerState, model: Mapping[str, Tensor], offset: Tensor | None
    ) -> FittedHead:
        """One forward pass over the device's training examples, and a convex fit; once for each state."""
        return self._fits.get(device, state, model, lambda: self._fit(device, model, offset))

    def _fit(self, device: Device, model: Mapping[str, Tensor], offset: Tensor | None) -> FittedHead:
        site: Site = device.site
        found: FeaturesResult = site.executor.result(FeaturesJob(device.number, model, device.indices))
        return self.task.fit_own_head(
            found.vectors,
            torch.from_numpy(site.data.train.targets[device.indices]),
            model[HEAD_WEIGHT],
            model[HEAD_BIAS],
            offset,
            stream(self.config.seed, "folds of a device's own head", device.number),
        )
