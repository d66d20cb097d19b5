"""`fedalt`: part of the model is each device's own; it is trained first, then the shared part."""

import dataclasses
from typing import Any, ClassVar

from fibecfed.errors import InputError
from fibecfed.federation import Device, Request, ServerState
from fibecfed.methods.base import FederatedAveraging
from fibecfed.methods.stages import Train
from fibecfed.seeding import torch_seed
from fibecfed.sharing import fixed_count
from fibecfed.training import TrainJob


class _PartAfterPart(Train):
    """Two jobs over the batches of one: what does not travel, then what does."""

    def job(self, device: Device, request: Request, indices: Any = None, **changes: Any) -> TrainJob:
        job, number = super().job(device, request, indices, **changes), request.address.round
        own = [name for name in self.layout.names if name not in request.tensors]
        if not own:
            return job
        full = self.config.fedalt.passes == "full"
        first = len(job.batches) if full else (len(job.batches) + number % 2) // 2
        rest = job.batches if full else job.batches[first:]
        shared = [name for name in self.layout.names if name in request.tensors]
        personal = dataclasses.replace(
            job,
            trained=dict.fromkeys(own),
            batches=job.batches[:first],
            seed=torch_seed(self.config.seed, "dropout of the personal part", number, device.number),
        )
        return dataclasses.replace(job, trained=dict.fromkeys(shared), batches=rest, before=personal)


class FedAlt(FederatedAveraging):
    """FedAlt: in each round a device first trains its personal part, the shared one fixed, then the reverse.

    Pillutla et al. 2022 (LocalAlt on every device). The two stages split the steps of fedavg-lora, so that the total
    is the same: half each, an odd step going to the personal part in odd rounds and to the shared one in even rounds.
    A device with one batch trains the parts in turn. ``passes: full`` gives each part all steps instead. Personal by
    default is the LoRA of the upper half of the layers, in the spirit of the paper's personal adapters and output
    layers; the head is shared, since the global model would otherwise have an untrained one (project decisions). In
    the global model the personal part is as at the start. With nothing personal it is fedavg-lora.

    Trained: as fedavg-lora. Bytes a round and device, each way: 4 x the entries of the shared part.
    """

    name: ClassVar[str] = "fedalt"
    place: ClassVar[int] = 150
    paper: ClassVar[str] = "Pillutla et al. 2022"
    trains: ClassVar[str] = "the upper layers' LoRA on each device for itself, then the rest"
    sends: ClassVar[str] = "LoRA of the lower layers, and the head"
    sections: ClassVar[frozenset[str]] = frozenset({"fedalt"})
    round_stage: ClassVar[type[Train]] = _PartAfterPart

    def _prepare(self) -> None:
        config, layout = self.config, self.layout
        settings = config.fedalt
        stay = fixed_count(settings.layers, layout.layers) if settings.layers else 0
        self._shared = tuple(
            p.name for p in layout if (not settings.head if p.layer is None else p.layer < layout.layers - stay)
        )
        if not self._shared:
            raise InputError(
                f"fedalt.layers={settings.layers} and fedalt.head={settings.head} leave nothing to share; "
                "lower fedalt.layers, or take method=local-only."
            )
        if settings.head and config.model.solves_head:
            raise InputError("fedalt.head keeps the head on devices, where model.head_init would never reach it.")
        self.keeps_device_state = self.keeps_local = len(self._shared) < len(layout)

    def shared(self, state: ServerState) -> tuple[str, ...]:
        return self._shared
