"""The server: phases, cohorts, folding replies, and what each phase cost."""

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from fibecfed.config import Config
from fibecfed.errors import RunFailed
from fibecfed.federation.aggregation import in_order
from fibecfed.federation.costs import device_seconds
from fibecfed.federation.messages import Address, Delivery, Failure, Request
from fibecfed.federation.method import Method, Phase, Transport
from fibecfed.federation.state import Costs, ServerState
from fibecfed.federation.validation import STATE_LOST, Criteria, judge
from fibecfed.seeding import stream


@dataclass(frozen=True)
class PhaseDone:
    """What happened in one phase."""

    phase: Phase
    state: ServerState
    loss: float | None  # mean training loss over the replies, weighted by examples trained
    cohort: tuple[int, ...]
    failures: tuple[Failure, ...] = field(default=())  # ascending by device
    states_lost: tuple[tuple[int, str], ...] = field(default=())  # devices that had to start afresh, and why


def cohort(seed: int, phase: Phase, devices: int) -> tuple[int, ...]:
    """The devices of a phase, ascending: f(seed, round), the same for every method, unless the phase names them."""
    if phase.members is not None:
        return phase.members
    if phase.devices >= devices:
        return tuple(range(devices))
    purpose = "cohort" if phase.is_round else f"cohort of {phase.name}"
    drawn = stream(seed, purpose, phase.round).choice(devices, size=phase.devices, replace=False)
    return tuple(sorted(int(d) for d in drawn))


class Server:
    """Runs a method over a transport; all it remembers is its ServerState."""

    def __init__(self, config: Config, method: Method, transport: Transport, devices: int, run: str) -> None:
        self.config = config
        self.method = method
        self.transport = transport
        self.devices = devices
        self.run_name = run

    def phases(self, state: ServerState) -> Iterator[PhaseDone]:
        """Go on from a state, one phase at a time, until the method has no further phase.

        Raises RunFailed when fewer than ``federation.minimum_replies`` usable replies came.
        """
        while (phase := self.method.next_phase(state)) is not None:
            done = self.run_phase(state, phase)
            state = done.state
            yield done

    def run_phase(self, state: ServerState, phase: Phase) -> PhaseDone:
        """One exchange with one cohort."""
        started = time.process_time()
        chosen = cohort(self.config.seed, phase, self.devices)
        requests = {device: self._request(state, phase, device) for device in chosen}
        accumulator = self.method.accumulator(state, phase)
        criteria = self._criteria(state, phase)
        versions = dict(state.device_versions)
        failures: list[Failure] = []
        lost: list[tuple[int, str]] = []
        answered: set[int] = set()
        costs, slowest, losses = Costs(), 0.0, _Mean()
        deadline = self.config.federation.deadline_seconds
        for answer in in_order(self.transport.exchange(list(requests.values()), deadline), chosen):
            failure = answer if isinstance(answer, Failure) else self._judge(answer, requests, state, phase, criteria)
            if failure is not None:
                failures.append(failure)
                continue
            assert isinstance(answer, Delivery)
            reply = answer.reply
            self.method.fold(accumulator, reply)
            answered.add(reply.address.device)
            if reply.address.state_version:
                versions[reply.address.device] = reply.address.state_version
            if STATE_LOST in reply.info:
                lost.append((reply.address.device, reply.info[STATE_LOST]))
            costs += _reply_costs(answer)
            slowest = max(slowest, self._seconds(answer))
            losses.add(reply.info.get("loss"), reply.info.get("examples_trained", 0))
        silent = set(chosen) - answered - {failure.device for failure in failures}
        failures += [Failure(device, "no answer came from it", "late") for device in silent]
        failures.sort(key=lambda failure: (failure.device, failure.kind, failure.reason))
        if len(answered) < min(self.config.federation.minimum_replies, len(chosen)):
            raise RunFailed(
                f"Round {phase.round}: only {len(answered)} of {len(chosen)} devices gave a usable reply "
                f"(federation.minimum_replies={self.config.federation.minimum_replies}). "
                f"First reason: {failures[0].reason}."
            )
        finished = self.method.finish(state, phase, accumulator)
        costs += Costs(cpu_seconds=time.process_time() - started, simulated_seconds=slowest)
        finished = finished.replace(device_versions=versions, costs=state.costs + costs)
        return PhaseDone(phase, finished, losses.value, chosen, tuple(failures), tuple(lost))

    def _criteria(self, state: ServerState, phase: Phase) -> Criteria:
        method, settings = self.method, self.config.federation
        return Criteria(
            method.expected(state, phase),
            method.expected_info(state, phase),
            frozenset(method.layout.names),
            settings.maximum_norm,
            settings.maximum_examples,
        )

    def _judge(
        self, answer: Delivery, requests: Mapping[int, Request], state: ServerState, phase: Phase, criteria: Criteria
    ) -> Failure | None:
        """Why an answer is left out; None if it is used."""
        reply = answer.reply
        failure = judge(reply, requests[reply.address.device], criteria)
        problem = None if failure else self.method.problem(state, phase, reply)
        return failure if problem is None else Failure(reply.address.device, problem, "sums")

    def _request(self, state: ServerState, phase: Phase, device: int) -> Request:
        tensors, info = self.method.request(state, phase, device)
        version = state.device_versions.get(device, 0)
        address = Address(self.run_name, phase.round, phase.name, device, 0, version)
        return Request(address, tensors, info)

    def _seconds(self, answer: Delivery) -> float:
        reply = answer.reply
        return device_seconds(
            self.config.cost,
            self.config.seed,
            reply.address.device,
            float(reply.info.get("operations", 0.0)),
            answer.bytes_up,
            answer.bytes_down,
        )


def _reply_costs(answer: Delivery) -> Costs:
    info = answer.reply.info
    return Costs(
        bytes_up=answer.bytes_up,
        bytes_down=answer.bytes_down,
        examples_trained=int(info.get("examples_trained", 0)),
        examples_scored=int(info.get("examples_scored", 0)),
        operations=float(info.get("operations", 0.0)),
    )


class _Mean:
    """A weighted mean that skips missing values."""

    def __init__(self) -> None:
        self._total, self._weight = 0.0, 0.0

    def add(self, value: float | None, weight: float) -> None:
        if value is not None and weight and math.isfinite(value):
            self._total += value * weight
            self._weight += weight

    @property
    def value(self) -> float | None:
        return self._total / self._weight if self._weight else None
