"""Both protocols of docs/method.md section 7 where the held-out text lies on the devices: only totals travel."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fibecfed.data import TokenizedSet
from fibecfed.errors import RunFailed
from fibecfed.federation import (
    COSTS,
    OF_DEVICES,
    STATE_LOST,
    Address,
    Criteria,
    Delivery,
    Device,
    Failure,
    Method,
    Number,
    Reply,
    Request,
    ServerState,
    Site,
    TensorSpec,
    validate,
)
from fibecfed.runtime.answers import answered
from fibecfed.runtime.evaluation import Evaluation, answers_by_protocol, on_device, worst_tenth
from fibecfed.tasks import Counts

_OWN, _SERVERS = "own/", "server/"
_ANSWERS = "answers/"  # behind one of these two
_MODEL, _MEMORY = "model/", "memory/"

Ask = Callable[[Sequence[Request]], Iterator[Delivery | Failure]]


def state_request(state: ServerState, run: str, purpose: str, device: int) -> Request:
    """The server's whole state, as a device needs it to make its own model of it; nothing that other devices told."""
    tensors = {f"{_MODEL}{n}": t for n, t in state.tensors.items()}
    tensors |= {f"{_MEMORY}{n}": t for n, t in state.memory.items()}
    address = Address(run, state.round, purpose, device, 0, state.device_versions.get(device, 0))
    return Request(address, tensors, {name: value for name, value in state.info.items() if name != OF_DEVICES})


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


def counted(method: Method, device: Device, request: Request) -> Reply:
    """Device half: total counts of the server's model, and of the device's own, on the device's held-out text.

    A device that lost its state has the server's model until it trains again, and says so.
    """
    site, state = device.site, server_state(request, device)
    mine = site.data.held_out_owners.indices(device.number)
    found = _totals(_SERVERS, site, device.number, state.tensors, site.data.held_out, mine)
    said: dict[str, Any] = {"examples": len(mine)}
    if device.state_lost is not None:
        said[STATE_LOST] = device.state_lost
    elif device.number in method.personal_devices(state):
        found |= _totals(_OWN, site, device.number, method.personal(device, state), site.data.held_out, mine)
    return Reply(request.address, found, said)


def _totals(
    prefix: str, site: Site, device: int, model: Mapping[str, Tensor], data: TokenizedSet, examples: np.ndarray
) -> dict[str, Tensor]:
    if not len(examples):
        return {f"{prefix}{name}": torch.zeros(spec.shape, dtype=spec.dtype) for name, spec in _form(site).items()}
    found = dict(site.executor.counts(model, data, examples).total().values)
    if site.answering is not None:
        answers = answered(site, model, device, data, examples)
        found |= {f"{_ANSWERS}{name}": value for name, value in answers.values.items()}
    return {f"{prefix}{name}": torch.from_numpy(value) for name, value in found.items()}


def _form(site: Site) -> dict[str, TensorSpec]:
    """Totals of one model on one device."""
    answers = {} if site.answering is None else site.answering.totals_form()
    form = {**site.data.task.totals_form(), **{f"{_ANSWERS}{name}": spec for name, spec in answers.items()}}
    return {name: TensorSpec(shape, dtype) for name, (shape, dtype) in form.items()}


class FederatedEvaluator:
    """Server half: pools what the devices counted; with test data of its own the server evaluates its model itself.

    A device that does not answer, or whose totals cannot be right, is missing from that evaluation's numbers and is
    named; RunFailed if none is left.
    Equal to the evaluation in one process but for the last bits of the loss, which is summed in another order.
    """

    global_is_mean_of_devices = False

    def __init__(self, method: Method, site: Site, run: str, ask: Ask) -> None:
        self._method = method
        self._site = site
        self._run = run
        self._ask = ask
        self.states_lost: dict[int, str] = {}  # as the devices said in the latest evaluation

    def __call__(self, state: ServerState) -> Evaluation:
        task, held_out = self._site.data.task, self._site.data.held_out
        devices = range(self._site.config.federation.device_count)
        requests = {device: state_request(state, self._run, "evaluate", device) for device in devices}
        with_own = set(self._method.personal_devices(state)) if self._method.keeps_device_state else set()
        servers, own, without = dict[int, Counts](), dict[int, Counts](), dict[int, Counts]()
        answers, own_answers = dict[int, Counts](), dict[int, Counts]()
        examples: dict[int, int] = {}
        missing: list[Failure] = []
        self.states_lost = {}
        for answer in self._ask(list(requests.values())):
            failure = answer if isinstance(answer, Failure) else self._problem(answer.reply, requests, with_own)
            if failure is not None:
                missing.append(failure)
                continue
            assert isinstance(answer, Delivery)
            reply, device = answer.reply, answer.reply.address.device
            if STATE_LOST in reply.info:
                self.states_lost[device] = reply.info[STATE_LOST]
            if not reply.info["examples"]:
                continue
            examples[device] = int(reply.info["examples"])
            servers[device] = _counts(_SERVERS, reply)
            if f"{_OWN}loss" in reply.tensors:
                own[device] = _counts(_OWN, reply)
            else:
                without[device] = servers[device]
            answers[device] = _counts(f"{_SERVERS}{_ANSWERS}", reply)
            own_answers[device] = _counts(f"{_OWN}{_ANSWERS}", reply) if device in own else answers[device]
        if not servers:
            why = f" ({missing[0].reason})" if missing else ""
            raise RunFailed(f"No device evaluated the model after round {state.round}; its quality is not known{why}.")
        of_server = task.metrics(_joined(servers))
        if len(held_out):
            everything = np.arange(len(held_out))
            of_server = task.metrics(self._site.executor.counts(state.tensors, held_out, everything))
        of_answers, of_own_answers = self._answers(answers), self._answers(own_answers)
        personal = {**own, **without}
        on_devices = {
            device: on_device(task, examples[device], servers[device], counts) for device, counts in personal.items()
        }
        return Evaluation(
            task.metric,
            {**of_server, **of_answers},
            {**task.metrics(_joined(personal)), **of_own_answers},
            worst_tenth(np.array([on.personalized for on in on_devices.values()]), task.lower_is_better),
            task.metrics(_joined(without)).get(task.metric) if own else None,
            tuple(sorted(missing, key=lambda failure: failure.device)),
            task.lower_is_better,
            on_devices,
            answers_by_protocol(task, _joined(servers), _joined(personal)),
        )

    def _answers(self, of_devices: Mapping[int, Counts]) -> dict[str, float]:
        """What answers to the devices' prompts come to; those of the server's own test data are not asked."""
        answering = self._site.answering
        return {} if answering is None else answering.metrics(_joined(of_devices))

    def _problem(self, reply: Reply, requests: Mapping[int, Request], with_own: set[int]) -> Failure | None:
        """Why totals cannot be used; None if they can."""
        device, settings, form = reply.address.device, self._site.config.federation, _form(self._site)
        models = [_SERVERS, *([_OWN] if device in with_own and STATE_LOST not in reply.info else [])]
        criteria = Criteria(
            {f"{model}{name}": spec for model in models for name, spec in form.items()},
            {
                "examples": Number(0, settings.maximum_examples, whole=True, required=True),
                STATE_LOST: COSTS[STATE_LOST],
            },
            frozenset(),
            settings.maximum_norm,
            settings.maximum_examples,
        )
        failure = validate(reply, requests[device], criteria)
        if failure is not None:
            return failure
        for model in models:
            totals = {name: reply.tensors[f"{model}{name}"] for name in form}
            problem = self._site.data.task.totals_problem(totals, reply.info["examples"])
            if problem is None and self._site.answering is not None:
                of_answers = {n.removeprefix(_ANSWERS): t for n, t in totals.items() if n.startswith(_ANSWERS)}
                problem = self._site.answering.totals_problem(of_answers, reply.info["examples"])
            if problem is not None:
                return Failure(device, problem, "sums")
        return None


def _joined(counts: Mapping[int, Counts]) -> Counts:
    return Counts.join([counts[device] for device in sorted(counts)])


def _counts(prefix: str, reply: Reply) -> Counts:
    """What stands directly behind the prefix."""
    named = {n.removeprefix(prefix): t.numpy() for n, t in reply.tensors.items() if n.startswith(prefix)}
    return Counts({name: value for name, value in named.items() if "/" not in name})
