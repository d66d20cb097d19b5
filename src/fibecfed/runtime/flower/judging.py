"""Both protocols of METHOD.md section 7 where the held-out text lies on the devices: only totals travel."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from fibecfed.data import TokenizedSet
from fibecfed.errors import RunFailed
from fibecfed.federation import Address, Delivery, Device, Failure, Reply, Request, ServerState, Site
from fibecfed.runtime.evaluation import Evaluation, worst_tenth
from fibecfed.tasks import Counts, Task

_OWN, _SERVERS = "own/", "server/"
_MODEL, _MEMORY = "model/", "memory/"

Ask = Callable[[Sequence[Request]], Iterator[Delivery | Failure]]


def state_request(state: ServerState, run: str, phase: str, device: int) -> Request:
    """The server's whole state, as a device needs it to make its own model of it."""
    tensors = {f"{_MODEL}{n}": t for n, t in state.tensors.items()}
    tensors |= {f"{_MEMORY}{n}": t for n, t in state.memory.items()}
    address = Address(run, state.round, phase, device, 0, state.device_versions.get(device, 0))
    return Request(address, tensors, dict(state.info))


def server_state(request: Request, device: Device) -> ServerState:
    """The reverse of ``state_request``, with only this device's version in it."""
    versions = {device.number: device.state_version} if device.state_version else {}
    return ServerState(
        request.address.round,
        {n.removeprefix(_MODEL): t for n, t in request.tensors.items() if n.startswith(_MODEL)},
        request.info,
        {n.removeprefix(_MEMORY): t for n, t in request.tensors.items() if n.startswith(_MEMORY)},
        versions,
    )


def judge(device: Device, request: Request) -> Reply:
    """Device half: total counts of the server's model, and of the device's own, on the device's held-out text."""
    site, state = device.site, server_state(request, device)
    mine = site.data.held_out_owners.indices(device.number)
    found: dict[str, Tensor] = {}
    if len(mine):
        found |= _totals(_SERVERS, site, state.tensors, site.data.held_out, mine)
        if device.number in site.method.personal_devices(state):
            found |= _totals(_OWN, site, site.method.personal(device, state), site.data.held_out, mine)
    return Reply(request.address, found)


def _totals(
    prefix: str, site: Site, model: Mapping[str, Tensor], data: TokenizedSet, examples: np.ndarray
) -> dict[str, Tensor]:
    counts = site.executor.counts(model, data, examples).total()
    return {f"{prefix}{name}": torch.from_numpy(value) for name, value in counts.values.items()}


class FederatedEvaluator:
    """Server half: pools what the devices counted; with test data of its own the server judges its model itself.

    A device that does not answer is missing from that evaluation's numbers and is reported; RunFailed if none does.
    Equal to the evaluation in one process but for the last bits of the loss, which is summed in another order.
    """

    global_is_mean_of_devices = False

    def __init__(self, site: Site, run: str, ask: Ask, report: Callable[[str], None]) -> None:
        self._site = site
        self._run = run
        self._ask = ask
        self._report = report

    def __call__(self, state: ServerState) -> Evaluation:
        task, held_out = self._site.data.task, self._site.data.held_out
        devices = range(self._site.config.federation.devices)
        requests = [state_request(state, self._run, "evaluate", device) for device in devices]
        servers, own, without = dict[int, Counts](), dict[int, Counts](), dict[int, Counts]()
        for answer in self._ask(requests):
            if isinstance(answer, Failure):
                self._report(
                    f"Evaluation after round {state.round}: device {answer.device} is missing: {answer.reason}"
                )
                continue
            device = answer.reply.address.device
            if (counts := _counts(_SERVERS, answer.reply, task)) is not None:
                servers[device] = counts
                mine = _counts(_OWN, answer.reply, task)
                (without if mine is None else own)[device] = counts if mine is None else mine
        if not servers:
            raise RunFailed(f"No device judged the model after round {state.round}, so its quality is not known.")
        of_server = task.metrics(_joined(servers))
        if len(held_out):
            of_server = task.metrics(self._site.executor.counts(state.tensors, held_out, np.arange(len(held_out))))
        personal = {**own, **without}
        return Evaluation(
            of_server,
            task.metrics(_joined(personal)),
            worst_tenth(np.array([task.metrics(counts)["accuracy"] for counts in personal.values()])),
            task.metrics(_joined(without)).get("accuracy") if own else None,
        )


def _joined(counts: Mapping[int, Counts]) -> Counts:
    return Counts.join([counts[device] for device in sorted(counts)])


def _counts(prefix: str, reply: Reply, task: Task) -> Counts | None:
    """One device's totals, if they have the right form: (1, C, C) not negative, and (1,)."""
    values = {n.removeprefix(prefix): t.numpy() for n, t in reply.tensors.items() if n.startswith(prefix)}
    shapes = {name: value.shape for name, value in values.items()}
    if shapes != {"confusion": (1, task.outputs, task.outputs), "loss": (1,)}:
        return None
    usable = (values["confusion"] >= 0).all() and np.isfinite(values["loss"]).all() and values["confusion"].sum() > 0
    return Counts(values) if usable else None
