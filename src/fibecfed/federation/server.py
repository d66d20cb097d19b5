"""The server: stages, cohorts, folding replies, and what each exchange cost."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from fibecfed.config import Config
from fibecfed.errors import RunFailed
from fibecfed.federation.aggregation import in_order
from fibecfed.federation.codec import Undecodable
from fibecfed.federation.compression import RESIDUAL, RESIDUAL_LOST, compression_of
from fibecfed.federation.exchange_time import device_seconds
from fibecfed.federation.messages import Address, Delivery, Failure, Reply, Request
from fibecfed.federation.method import Method, Stage, Transport, next_stage, stage_round
from fibecfed.federation.state import Costs, ServerState
from fibecfed.federation.upload import AsItIs, Upload
from fibecfed.federation.validation import STATE_LOST, Criteria, shown, validate
from fibecfed.seeding import stream


@dataclass(frozen=True)
class StageDone:
    """What happened in one exchange."""

    stage: Stage
    round: int  # that it was, or prepared
    state: ServerState
    loss: float | None  # mean training loss over the replies, weighted by examples trained
    cohort: tuple[int, ...]
    failures: tuple[Failure, ...] = field(default=())  # ascending by device
    states_lost: tuple[tuple[int, str], ...] = field(default=())  # devices that had to start afresh, and why


def cohort(seed: int, round: int, count: int, devices: int, purpose: str = "cohort") -> tuple[int, ...]:
    """So many of the devices, ascending: f(seed, round), the same for every method and whatever a round is called."""
    if count >= devices:
        return tuple(range(devices))
    drawn = stream(seed, purpose, round).choice(devices, size=count, replace=False)
    return tuple(sorted(int(d) for d in drawn))


def _of_the_others(own: tuple[int, ...], place: int) -> int:
    """The device at this place among those that are not in ``own``, all ascending."""
    for device in own:
        if device > place:
            break
        place += 1
    return place


class Server:
    """Runs a method over a transport; all it remembers is its ServerState."""

    def __init__(
        self,
        config: Config,
        method: Method,
        transport: Transport,
        devices: int,
        run: str,
        upload: Upload | None = None,
        cpu_seconds: Callable[[], float] = time.process_time,
    ) -> None:
        self.config = config
        self.method = method
        self.transport = transport
        self.devices = devices
        self.run_name = run
        self.upload = upload or AsItIs()
        self.compression = compression_of(config, method.layout)
        self._cpu_seconds = cpu_seconds  # so far, of all processes that work for this run here

    def run(self, state: ServerState) -> Iterator[StageDone]:
        """Go on from a state, one stage at a time, until none is due.

        Raises RunFailed when fewer than ``federation.minimum_replies`` usable replies came.
        """
        while (stage := next_stage(self.method, state)) is not None:
            done = self.exchange(state, stage)
            state = done.state
            yield done

    def cohort(self, state: ServerState, stage: Stage) -> tuple[int, ...]:
        """The devices that a stage asks, ascending."""
        members = stage.members(state)
        if members.chosen is not None:
            return members.chosen
        seed, number, purpose = self.config.seed, stage_round(stage, state), f"cohort of {stage.name}"
        if stage.is_round:
            return cohort(seed, number, members.number, self.devices)
        if not members.of_round:
            return cohort(seed, number, members.number, self.devices, purpose)
        own = cohort(seed, number, self.config.federation.cohort_size, self.devices)
        if members.number <= len(own):
            return tuple(own[i] for i in cohort(seed, number, members.number, len(own), purpose))
        more = cohort(seed, number, members.number - len(own), self.devices - len(own), purpose)
        return tuple(sorted((*own, *(_of_the_others(own, i) for i in more))))

    def exchange(self, state: ServerState, stage: Stage) -> StageDone:
        """One exchange with one cohort."""
        started = self._cpu_seconds()
        number, chosen = stage_round(stage, state), self.cohort(state, stage)
        requests = {device: self.request(state, stage, device) for device in chosen}
        accumulator = stage.accumulator(state)
        criteria = self._criteria(state, stage)
        versions, residuals = dict(state.device_versions), dict(state.residual_versions)
        failures: list[Failure] = []
        lost: list[tuple[int, str]] = []
        answered: set[int] = set()
        costs, slowest, losses = Costs(), 0.0, _Mean()
        deadline = self.config.federation.deadline_seconds
        packed = [self.compression.pack_request(r, residuals.get(device, 0)) for device, r in requests.items()]
        for answer in in_order(self.transport.exchange(packed, deadline), chosen):
            reply = answer if isinstance(answer, Failure) else self._judged(answer, requests, state, stage, criteria)
            if isinstance(reply, Failure):
                failures.append(reply)
                continue
            assert isinstance(answer, Delivery)
            stage.fold(accumulator, self.upload.incoming(reply))
            answered.add(reply.address.device)
            if reply.address.state_version:
                versions[reply.address.device] = reply.address.state_version
            if RESIDUAL in reply.info:
                residuals[reply.address.device] = reply.info[RESIDUAL]
            why = reply.info.get(STATE_LOST, reply.info.get(RESIDUAL_LOST))
            if why is not None:
                lost.append((reply.address.device, why))
            costs += _reply_costs(answer)
            slowest = max(slowest, self._seconds(answer))
            losses.add(reply.info.get("loss"), reply.info.get("examples_trained", 0))
        silent = set(chosen) - answered - {failure.device for failure in failures}
        failures += [Failure(device, "no answer came from it", "late") for device in silent]
        failures.sort(key=lambda failure: (failure.device, failure.kind, failure.reason))
        if len(answered) < min(self.config.federation.minimum_replies, len(chosen)):
            raise RunFailed(
                f"Round {number}: only {len(answered)} of {len(chosen)} devices gave a usable reply "
                f"(federation.minimum_replies={self.config.federation.minimum_replies}). "
                f"First reason: {failures[0].reason}."
            )
        finished = stage.finish(state, accumulator)
        costs += Costs(cpu_seconds=self._cpu_seconds() - started, simulated_seconds=slowest)
        finished = finished.replace(device_versions=versions, residual_versions=residuals, costs=state.costs + costs)
        return StageDone(stage, number, finished, losses.value, chosen, tuple(failures), tuple(lost))

    def _criteria(self, state: ServerState, stage: Stage) -> Criteria:
        tensors, info = stage.expected(state)
        settings = self.config.federation
        return Criteria(
            tensors,
            {**info, **self.compression.says},
            frozenset(self.method.layout.names),
            settings.maximum_norm,
            settings.maximum_examples,
        )

    def _judged(
        self, answer: Delivery, requests: Mapping[int, Request], state: ServerState, stage: Stage, criteria: Criteria
    ) -> Reply | Failure:
        """The reply of an answer, unpacked, or why it is left out."""
        device = answer.reply.address.device
        try:
            reply = self.compression.unpack_reply(
                answer.reply, requests[device], state.residual_versions.get(device, 0)
            )
        except Undecodable as error:
            return Failure(device, f"its answer could not be read: {shown(str(error))}", "undecodable")
        failure = validate(reply, requests[device], criteria)
        if failure is not None:
            return failure
        problem = stage.problem(state, reply)
        return reply if problem is None else Failure(device, problem, "sums")

    def request(self, state: ServerState, stage: Stage, device: int) -> Request:
        """What a stage sends to a device, addressed."""
        tensors, info = stage.request(state, device)
        version = state.device_versions.get(device, 0)
        address = Address(self.run_name, stage_round(stage, state), stage.name, device, 0, version)
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
