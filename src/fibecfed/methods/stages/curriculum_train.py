"""FibecFed's round: the GAL densely, a device's own rows sparsely, on the easy part of its examples."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fibecfed.curriculum.selection import select
from fibecfed.federation import (
    STATE_LOST,
    Aggregator,
    Content,
    Device,
    DeviceState,
    InfoSpec,
    Reply,
    Request,
    ServerState,
    TensorSpec,
    Work,
)
from fibecfed.methods.fibecfed_parts.confidence import CONFIDENCE, TOLD, confidence_of, doubtful_of
from fibecfed.methods.fibecfed_parts.first_training import before_first_training, learned, watched
from fibecfed.methods.fibecfed_parts.initialization import DIFFICULTY, FIRST_DIFFICULTY, ROWS, kept_rows_of
from fibecfed.methods.stages.partly_shared import PartlyShared
from fibecfed.methods.stages.score_layers import initialized
from fibecfed.seeding import stream
from fibecfed.training import DeviceFailed, LocalResult, TrainJob, scheduled_rate

TIMES = "times trained"  # how often a device's local layers trained, in its memory
ANCHOR = "anchor/"  # the shared value of what is local, in a device's memory


@dataclass
class _Replies:
    mean: Aggregator
    met: list[int] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)  # those of them whose state was gone
    confidence: list[Tensor] = field(default_factory=list)


class CurriculumTrain(PartlyShared):
    """Steps 6 to 9 of the protocol; a device that comes late is initialised first."""

    @property
    def keeps_state(self) -> bool:
        """What initialization found, at least."""
        return self.plan.chooses_layers or self.plan.has_curriculum or super().keeps_state

    # Server half

    def request(self, state: ServerState, device: int) -> Content:
        """Steps 4 and 6: the GAL, its parameters, and how far the curriculum is."""
        info, warm_up = super().request(state, device)[1], state.info.get("warm_up", 0)
        return self.plan.sent(state, device), {
            **info,
            "layers": state.info.get("layers"),
            "step": state.round - warm_up,
            "steps": max(1, self.config.federation.rounds - warm_up),
            **({CONFIDENCE: state.memory[CONFIDENCE].tolist()} if CONFIDENCE in state.memory else {}),
        }

    def expected(self, state: ServerState) -> tuple[Mapping[str, TensorSpec], Mapping[str, InfoSpec]]:
        """What was sent; and how sure the model was of the device's examples, where that decides the cap."""
        tensors, info = super().expected(state)
        own = {CONFIDENCE: TensorSpec((2, self.layout.groups + 1), torch.float64)} if self._finds_cap else {}
        return {**tensors, **own}, info

    def problem(self, state: ServerState, reply: Reply) -> str | None:
        """Chances of no more examples than there are."""
        if CONFIDENCE in reply.tensors:
            total, counts = reply.tensors[CONFIDENCE]  # of each group; in the last column what is wrong and sure
            beyond = counts * (1 + 1e-5)  # chances are float32
            most = max(float(counts[:-1].sum()), float(counts[-1]))
            if (total < 0).any() or (total > beyond).any() or most > reply.info["examples"]:
                return "what it says of the model's confidence contradicts itself"
        return super().problem(state, reply)

    def accumulator(self, state: ServerState) -> _Replies:
        return _Replies(super().accumulator(state))

    def fold(self, accumulator: _Replies, reply: Reply) -> None:
        tensors = dict(reply.tensors)
        confidence = tensors.pop(CONFIDENCE, None)
        if confidence is not None:
            accumulator.confidence.append(confidence)
        super().fold(accumulator.mean, dataclasses.replace(reply, tensors=tensors))
        accumulator.met.append(reply.address.device)
        if STATE_LOST in reply.info:
            accumulator.lost.append(reply.address.device)

    def finish(self, state: ServerState, accumulator: _Replies) -> ServerState:
        """Step 9."""
        again = set(accumulator.lost) & set(state.info.get("met", ()))  # trained without what they had lost
        state = self.plan.trained(state, set(accumulator.met) - again)
        if accumulator.confidence:
            known = [*([state.memory[CONFIDENCE]] if CONFIDENCE in state.memory else []), *accumulator.confidence]
            state = state.replace(memory={**state.memory, CONFIDENCE: torch.stack(known).sum(dim=0)})
        return super().finish(self.plan.met(state, accumulator.met, accumulator.lost), accumulator.mean)

    # Device half

    def work(self, device: Device, request: Request) -> Work:
        """Steps 7 and 8, after steps 1 and 5 where the device comes late or lost its state."""
        if not self.plan.all_sent(request.tensors, request.info["layers"]):
            raise DeviceFailed("the server asks for layers that it did not send, which may be this device's own")
        if self.plan.lacks_layers(device, request):
            return (yield from self._train_what_came(device, request))
        if self._needs_initialization(device):
            if self.config.curriculum.initialization == "training":
                return (yield from self._first_training(device, request))
            found = yield from initialized(self.plan, device, request, with_layer_scores=False)
            device.state = found.state
        self._keep_anchor(device, request)
        result: LocalResult = yield self._curriculum_job(device, request)
        reply, state = self.conclude(device, request, result)
        return device.keep(*self._confiding(reply, device, request, state))

    @property
    def _finds_cap(self) -> bool:
        return self.plan.has_curriculum and self.config.curriculum.cap == "auto"

    def _confiding(
        self, reply: Reply, device: Device, request: Request, state: DeviceState | None
    ) -> tuple[Reply, DeviceState | None]:
        """The reply, with how sure the model was of the device's examples when it scored them; told once."""
        if not self._finds_cap:
            return reply, state
        sums = torch.zeros(2, self.layout.groups + 1, dtype=torch.float64)
        if state is not None and TOLD not in state.memory:
            sums = confidence_of(device, state, request.info.get(CONFIDENCE))
            state = dataclasses.replace(state, memory={**state.memory, TOLD: torch.tensor(True)})
        return dataclasses.replace(reply, tensors={**reply.tensors, CONFIDENCE: sums}), state

    def _first_training(self, device: Device, request: Request) -> Work:
        """Step 7 on all examples, the device's own layers densely; what it tells takes the place of steps 1 and 5."""
        config = self.config
        device.state = before_first_training(device, config, self.layout)
        trains = self._rows(device, request.info["layers"])
        matrices = self.layout.only(p.name for p in self.layout if p.layer is not None and p.name in trains)
        result: LocalResult = yield self._curriculum_job(device, request, **watched(device, config, matrices))
        reply, state = self.conclude(device, request, result)
        kept = state or DeviceState(local={}, memory={})
        memory = {name: t for name, t in kept.memory.items() if name != FIRST_DIFFICULTY}
        state = DeviceState(kept.local, {**memory, **learned(device, config, matrices, result)})
        return device.keep(*self._confiding(reply, device, request, state))

    def _train_what_came(self, device: Device, request: Request) -> Work:
        """A round of a device that lost its layers: it trains what was sent, keeps nothing, and says so.

        The server then sends the warm-up's layers once more. To begin again without them would leave the device's own
        layers where no warm-up ever was (project decision).
        """
        result: LocalResult = yield self.job(device, request, trained=dict.fromkeys(request.tensors))
        sent = {name: result.tensors[name] for name in request.tensors}
        return self._confiding(Reply(request.address, sent, self.costs(device, result)), device, request, None)[0]

    def conclude(self, device: Device, request: Request, result: LocalResult) -> tuple[Reply, DeviceState | None]:
        """Step 8; scores that followed the training are kept beside the first ones."""
        reply, state = super().conclude(device, request, result)
        if state is not None and self.config.sharing.local_rate == "participation":
            times = torch.tensor(_times(device) + 1)
            state = dataclasses.replace(state, memory={**state.memory, TIMES: times})
        if result.difficulty is None or state is None:
            return reply, state
        memory = {**state.memory, DIFFICULTY: torch.from_numpy(result.difficulty)}
        memory.setdefault(FIRST_DIFFICULTY, memory[DIFFICULTY])
        return reply, dataclasses.replace(state, memory=memory)

    def _local_rates(self, device: Device, request: Request, trained: Iterable[str]) -> dict[str, float]:
        """Learning rates of local layers that differ, by the part that is over of what the device can expect."""
        config = self.config
        if config.sharing.local_rate == "round":
            return {}
        federation = config.federation
        expected = request.info["steps"] * federation.cohort_size / federation.device_count
        progress = min(1.0, _times(device) / (expected - 1)) if expected > 1 else 0.0
        rate = scheduled_rate(config.training, 1 + progress * (federation.rounds - 1), federation.rounds)
        local = self.layout.only(self.plan.local(request.info["layers"]))
        return {p.name: rate for p in local if p.layer is not None and p.name in set(trained)}

    def _keep_anchor(self, device: Device, request: Request) -> None:
        """The shared value of the local layers: the warm-up's, which they have before the device first trains them."""
        if not self.config.sharing.anchored or device.state is None or _anchor_of(device):
            return
        model, layers = device.model(request.tensors), request.info["layers"]
        local = self.layout.only(self.plan.local(layers))
        anchor = {f"{ANCHOR}{p.name}": model[p.name] for p in local if p.layer is not None}
        device.state = dataclasses.replace(device.state, memory={**device.state.memory, **anchor})

    def _anchored(self, device: Device, request: Request, job: TrainJob) -> TrainJob:
        """The job with half of its batches, drawn by the seed, on the shared value of the local layers."""
        anchor = {name: value for name, value in _anchor_of(device).items() if name in job.trained}
        rng = stream(self.config.seed, "anchored batches", request.address.round, device.number)
        count = (len(job.batches) + int(rng.integers(2))) // 2
        steps = frozenset(rng.permutation(len(job.batches))[:count].tolist())
        # Without a row that trains a layer has its shared value anyway.
        return dataclasses.replace(job, anchor=anchor, anchored=steps) if anchor else job

    def _needs_initialization(self, device: Device) -> bool:
        plan, memory = self.plan, device.state.memory if device.state else {}
        has_rows = any(name.startswith(ROWS) for name in memory)
        return (plan.chooses_layers and not has_rows) or (plan.has_curriculum and DIFFICULTY not in memory)

    def _curriculum_job(self, device: Device, request: Request, **changes: Any) -> TrainJob:
        """Step 7: the easy part of the examples, the GAL and the head whole, of the other layers the chosen rows."""
        indices, weights = device.indices, None
        difficulty = device.state.memory.get(DIFFICULTY) if device.state else None
        if difficulty is not None:
            chosen = select(
                self.config.curriculum,
                difficulty.numpy(),
                device.site.data.train.groups[indices],
                step=request.info["step"],
                steps=request.info["steps"],
                batch_size=self.config.training.batch_size,
                seed=self.config.seed,
                device=device.number,
                doubtful=doubtful_of(device, request.info.get(CONFIDENCE)),
            )
            indices = device.indices[chosen.positions]
            if chosen.weights is not None:
                weights = {int(i): float(w) for i, w in zip(indices, chosen.weights, strict=True)}
        refreshed: tuple[np.ndarray, np.ndarray] | None = None
        if self.config.curriculum.refresh and difficulty is not None:
            refreshed = (device.indices, difficulty.numpy())
        trained = self._rows(device, request.info["layers"])
        steps = self.steps(device) if self.config.curriculum.steps == "match" else None
        batches = self.batches(device, request, indices, steps)
        rates = self._local_rates(device, request, trained)
        fields = {"batches": batches, "trained": trained, "weights": weights, "difficulty": refreshed, "rates": rates}
        job = self.job(device, request, **fields | changes)
        return self._anchored(device, request, job) if self.config.sharing.anchored else job

    def _rows(self, device: Device, layers: Sequence[int] | None) -> dict[str, Tensor | None]:
        """Parameter to the rows that move, None for all: the GAL and the head whole, the device's own rows."""
        shared = set(self.plan.travelling(layers))
        rows = kept_rows_of(device.state).rows if device.state else {}
        trained: dict[str, Tensor | None] = {}
        for p in self.layout:
            if p.name in shared or p.layer is None:
                trained[p.name] = None
            elif layers is not None and p.layer not in layers and len(rows[p.name]):
                trained[p.name] = None if len(rows[p.name]) == p.shape[0] else rows[p.name]
        return trained


def _anchor_of(device: Device) -> dict[str, Tensor]:
    """Parameter to shared value, of what is local; {} before the device first trained."""
    memory = device.state.memory if device.state else {}
    return {name.removeprefix(ANCHOR): tensor for name, tensor in memory.items() if name.startswith(ANCHOR)}


def _times(device: Device) -> int:
    """How often the device's local layers trained before."""
    memory = device.state.memory if device.state else {}
    return int(memory[TIMES]) if TIMES in memory else 0
