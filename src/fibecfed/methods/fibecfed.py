"""`fibecfed`: Fisher-information curriculum, global aggregation layers (GAL), sparse personal layers.

"Fisher Information-based Efficient Curriculum Federated Learning with Large Language Models" (EMNLP 2024,
arXiv 2410.00131); details as METHOD.md decides them. The nine steps of its protocol, in order:

    initialization   1 devices score their examples and the layers   -> ``_initialize`` (initialization.py)
                     2 they upload the layer scores, nothing else    -> ``_initialize``
                     3 the server aggregates them and fixes the GAL  -> ``finish``, ``_fix_layers``
                     4 it tells every device                         -> ``request``
                     5 a device picks its local update parameters    -> ``prepare`` (chosen in 1, used here)
    every round      6 the server sends the GAL parameters           -> ``request``
                     7 a device trains them densely and its local
                       update parameters sparsely, on its curriculum -> ``prepare``
                     8 it uploads the GAL parameters, nothing else   -> ``conclude``
                     9 the server averages them, weighted by n_k     -> ``finish``

Before that comes the warm-up: ordinary FedAvg rounds, until the model can judge difficulty [D].
"""

import statistics as numbers
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from fibecfed.config import Config
from fibecfed.curriculum.selection import select
from fibecfed.errors import InputError
from fibecfed.federation import (
    Device,
    DeviceState,
    InfoSpec,
    Number,
    OneOf,
    Phase,
    Reply,
    Request,
    ServerState,
    Site,
    TensorSpec,
    WeightedMean,
)
from fibecfed.methods.base import STATISTICS, TRAIN, FederatedAveraging
from fibecfed.methods.decisions import decisions
from fibecfed.methods.gathering import Gathered
from fibecfed.methods.initialization import (
    DIFFICULTY,
    FIRST_DIFFICULTY,
    ROWS,
    Initialized,
    balanced_accuracy,
    initialize,
    kept_rows_of,
)
from fibecfed.methods.layer_count import device_answer, found_count, ranked_layers, set_count
from fibecfed.sharing import ConsensusSum, fixed_count, rank_layers
from fibecfed.training import DeviceFailed, LocalResult, TrainJob
from fibecfed.tuning import Layout

INITIALIZE, COUNT, MERGE = "initialize", "count layers", "merge"
_SCORED_LAYERS = ("sensitivity", "gain", "consensus", "reset_loss")
_SPECTRAL = ("lossless", "plateau")


class FibecFed(FederatedAveraging):
    """The method, each part of which a setting can switch off or replace (METHOD.md section 10)."""

    name: ClassVar[str] = "fibecfed"
    paper: ClassVar[str] = "EMNLP 2024, arXiv 2410.00131"
    trains: ClassVar[str] = "LoRA of the GAL and the head densely, rows of the other layers, on a growing easy part"
    sends: ClassVar[str] = "LoRA of the GAL and the head; layer scores once"
    parts: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "curriculum": {"score": "fisher"},
        "sharing": {"layers": "sensitivity", "rows": "fisher"},
    }
    takes_parts: ClassVar[bool] = True
    tunings: ClassVar[tuple[str, ...]] = ("adapter",)

    def __init__(self, config: Config, layout: Layout) -> None:
        super().__init__(config, layout)
        sharing = config.sharing
        self._chooses_layers = sharing.layers not in (None, "all")
        self._has_curriculum = config.curriculum.score not in (None, "none")
        self.keeps_device_state = self._chooses_layers or sharing.head == "local"
        self._off = not (self._chooses_layers or self._has_curriculum or sharing.head == "local" or sharing.freeze_a)
        if self._chooses_layers and not isinstance(sharing.count, str):
            fixed_count(sharing.count, layout.layers)  # raises now, not after the warm-up
        if self._chooses_layers and sharing.layers == "consensus" and self._most_warm_up() == 0:
            raise InputError("sharing.layers=consensus looks at the warm-up's updates; set warm_up.rounds above 0.")
        if sharing.count == "lossless" and sharing.radius is None and self._most_warm_up() == 0:
            raise InputError("sharing.count=lossless without a warm-up needs sharing.radius.")

    # What travels

    def shared(self, state: ServerState) -> tuple[str, ...]:
        """Every parameter during the warm-up; then the GAL's and the head's."""
        return self._shared(state.info.get("layers"))

    def _shared(self, layers: list[int] | None) -> tuple[str, ...]:
        sharing = self.config.sharing
        names = []
        for p in self.layout:
            if p.layer is None:
                travels = sharing.head != "local"
            else:
                travels = layers is None or p.layer in layers
                travels = travels and not (sharing.freeze_a and p.role == "lora_A")
            if travels:
                names.append(p.name)
        return tuple(names)

    # Server half

    def next_phase(self, state: ServerState) -> Phase | None:
        """Warm-up rounds, then initialization once, then rounds; at the end the local layers, if they are to merge."""
        phase = super().next_phase(state)
        if phase is None:
            if self.config.sharing.average_local and self._chooses_layers and not state.info.get("merged"):
                members = tuple(sorted(state.device_versions))
                return Phase(MERGE, state.round, len(members), is_round=False, judged=True, members=members)
            return None
        if phase.name == STATISTICS or not self._chooses_layers or not self._warm(state) or "layers" in state.info:
            return phase
        devices = self.config.sharing.devices or self.config.federation.sampled
        if self.config.sharing.layers in _SCORED_LAYERS and "layer_scores" not in state.info:
            return Phase(INITIALIZE, phase.round, devices, is_round=False)
        return Phase(COUNT, phase.round, devices, is_round=False)

    def is_closed(self, state: ServerState) -> bool:
        """Once the local layers are merged."""
        return bool(state.info.get("merged"))

    def _warm(self, state: ServerState) -> bool:
        """Whether the warm-up is over."""
        return self._most_warm_up() == 0 or "warm_up" in state.info

    def _most_warm_up(self) -> int:
        """The most rounds a warm-up may take."""
        config = self.config
        if not self._chooses_layers and not self._has_curriculum:
            return 0
        if config.warm_up.rounds is not None:
            return min(config.warm_up.rounds, config.federation.rounds)
        if config.model.head_init != "random" or config.federation.rounds == 1:
            return 0
        return max(1, int(config.warm_up.most * config.federation.rounds))

    def init(self, tensors: Mapping[str, Tensor]) -> ServerState:
        return self._layers_without_devices(super().init(tensors))

    def request(self, state: ServerState, phase: Phase, device: int) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        """Steps 4 and 6: the GAL, and its parameters. A device that was never met gets the warm-up's layers too."""
        if phase.name == MERGE:
            return {}, {"layers": state.info["layers"]}
        tensors, info = super().request(state, phase, device)
        if phase.name == STATISTICS or self._off:
            return tensors, info
        if self._most_warm_up() and self._chooses_layers and self._warm(state) and device not in state.info["met"]:
            tensors = {p.name: state.tensors[p.name] for p in self.layout if p.layer is not None or p.name in tensors}
        warm_up = state.info.get("warm_up", 0)
        return tensors, {
            **info,
            "warm": self._warm(state),
            "layers": state.info.get("layers"),
            "step": state.round - warm_up,
            "steps": max(1, self.config.federation.rounds - warm_up),
            **({"radius": state.info.get("radius"), "order": state.info.get("order")} if phase.name == COUNT else {}),
        }

    def accumulator(self, state: ServerState, phase: Phase) -> Gathered:
        if phase.name == STATISTICS:
            return Gathered(super().accumulator(state, phase))
        if phase.name != TRAIN:
            return Gathered(WeightedMean())
        gathered = Gathered(super().accumulator(state, phase), sent=state.tensors)
        if self.config.sharing.layers == "consensus" and not self._warm(state):
            gathered.consensus = ConsensusSum(self.layout)
        return gathered

    def expected(self, state: ServerState, phase: Phase) -> Mapping[str, TensorSpec]:
        """Step 2: layer scores; step 8: the shared parameters."""
        per_layer = TensorSpec((self.layout.layers,), torch.float64)
        if phase.name == INITIALIZE:
            return {} if self.config.sharing.layers == "consensus" else {"layer_scores": per_layer}
        if phase.name == COUNT:
            return {"losses": per_layer} if self.config.sharing.count == "functional" else {}
        if phase.name == MERGE:
            shared = set(self.shared(state))
            return {p.name: TensorSpec(p.shape) for p in self.layout if p.name not in shared and p.layer is not None}
        return super().expected(state, phase)

    def expected_info(self, state: ServerState, phase: Phase) -> Mapping[str, InfoSpec]:
        """In the warm-up how well the shared model judges; the spectrum's share, where layers are counted by it."""
        wanted = super().expected_info(state, phase)
        if phase.name == COUNT and self.config.sharing.count in _SPECTRAL:
            return {**wanted, "kept_share": Number(0, 1, or_none=True, required=True)}
        if phase.name == TRAIN and not self._off and not self._warm(state):
            return {**wanted, "warm": OneOf((False,), required=True), "accuracy": Number(0, 1)}
        return wanted

    def fold(self, accumulator: Gathered, reply: Reply) -> None:
        super().fold(accumulator.mean, reply)
        accumulator.note(reply, self.layout)

    def finish(self, state: ServerState, phase: Phase, accumulator: Gathered) -> ServerState:
        """Step 9 after a round; step 3 after initialization; the end of the warm-up when it has come."""
        if self._most_warm_up() and self._chooses_layers and self._warm(state) and phase.name in (INITIALIZE, TRAIN):
            state = self._with(state, met=sorted({*state.info["met"], *accumulator.met}))
        if phase.name == INITIALIZE:
            if self.config.sharing.layers != "consensus":
                scores = accumulator.mean.result()["layer_scores"].tolist()
                state = self._with(state, layer_scores=scores, order=list(rank_layers(scores)))
            if isinstance(self.config.sharing.count, str):
                return state
            return self._fix_layers(state, *set_count(self.config, self.layout.layers))
        if phase.name == COUNT:
            order = ranked_layers(self.config, self.layout.layers, state.info.get("order"))
            losses = accumulator.mean.result().get("losses")
            found = None if losses is None else losses.tolist()
            return self._fix_layers(
                state, *found_count(self.config, self.layout.layers, order, found, accumulator.shares)
            )
        if phase.name == MERGE:
            return self._with(state, merged=True).replace(tensors={**state.tensors, **accumulator.mean.result()})
        was_warm = self._warm(state)
        state = super().finish(state, phase, accumulator.mean)
        return state if was_warm or phase.name != TRAIN else self._warm_up_finished(state, accumulator)

    def _warm_up_finished(self, state: ServerState, gathered: Gathered) -> ServerState:
        """Note the end of the warm-up: enough rounds, or a shared model that can judge difficulty."""
        weight = sum(w for _, w in gathered.accuracy)
        accuracy = sum(a * w for a, w in gathered.accuracy) / weight if weight else 0.0
        state = self._with(state, warm_up_accuracy=[*state.info.get("warm_up_accuracy", []), accuracy])
        wanted = max(self.config.warm_up.accuracy, 2 / max(1, self._head_shape()[1]))
        enough = self.config.warm_up.rounds is None and weight and accuracy >= wanted
        if not enough and state.round < self._most_warm_up():
            return state
        state = self._with(state, warm_up=state.round, met=[])
        if gathered.distances:
            state = self._with(state, radius=numbers.median(gathered.distances))
        if gathered.consensus is not None:
            scores = gathered.consensus.result().tolist()
            state = self._with(state, layer_scores=scores, order=list(rank_layers(scores)))
        return self._layers_without_devices(state)

    def _layers_without_devices(self, state: ServerState) -> ServerState:
        """Fix the GAL where no device has to be asked."""
        sharing = self.config.sharing
        asked = sharing.layers in _SCORED_LAYERS and "layer_scores" not in state.info
        if not self._chooses_layers or not self._warm(state) or asked or isinstance(sharing.count, str):
            return state
        return self._fix_layers(state, *set_count(self.config, self.layout.layers))

    def _fix_layers(self, state: ServerState, count: int, reason: str) -> ServerState:
        """Step 3: the N layers of highest score are the GAL."""
        chosen = sorted(ranked_layers(self.config, self.layout.layers, state.info.get("order"))[:count])
        return self._with(state, layers=chosen, count_reason=reason)

    def midway(self, state: ServerState) -> ServerState:
        """After the warm-up, with as many layers shared as the setting says; half of them where devices decide."""
        state = super().midway(state)
        if self._off:
            return state
        warm_up, rounds = self._most_warm_up(), self.config.federation.rounds
        state = self._with(state, warm_up=warm_up, met=list(range(self.config.federation.devices)))
        state = state.replace(round=warm_up + (rounds - warm_up) // 2)
        if not self._chooses_layers:
            return state
        count = self.config.sharing.count
        number = fixed_count(0.5 if isinstance(count, str) else count, self.layout.layers)
        return self._with(state, layers=list(range(self.layout.layers))[-number:])

    def decisions(self, site: Site, state: ServerState) -> Mapping[str, Any]:
        """Layers, densities, difficulty, prefix; see decisions.py."""
        return {} if self._off else decisions(site, state, self.config, self.layout, self.shared(state))

    @staticmethod
    def _with(state: ServerState, **info: Any) -> ServerState:
        return state.replace(info={**state.info, **info})

    # Device half

    def prepare(self, device: Device, request: Request) -> TrainJob | Reply:
        """Steps 5 and 7; and the answers of the phases that train nothing."""
        phase, info = request.address.phase, request.info
        if self._off:
            return super().prepare(device, request)
        if phase == INITIALIZE:
            return self._initialize(device, request)
        if phase == COUNT:
            tensors, answer = device_answer(device, request, self.config, self.layout)
            return Reply(request.address, tensors, {**self.costs(device), **answer})
        if phase == MERGE:
            return self._merge_answer(device, request)
        if phase == TRAIN and not set(self._shared(info["layers"])) <= request.tensors.keys():
            raise DeviceFailed("the server asks for layers that it did not send, which may be this device's own")
        if phase == STATISTICS or not info["warm"]:
            work = super().prepare(device, request)
            return work if isinstance(work, Reply) else self._only_travelling(work)
        if self._needs_initialization(device):  # late, or its state is lost
            device.state = self._initialized(device, request, False).state
        indices, weights = device.indices, None
        difficulty = device.state.memory.get(DIFFICULTY) if device.state else None
        if difficulty is not None:
            chosen = select(
                self.config.curriculum,
                difficulty.numpy(),
                device.site.data.train.labels[indices],
                step=info["step"],
                steps=info["steps"],
                batch_size=self.config.training.batch_size,
                seed=self.config.seed,
                device=device.number,
            )
            indices = device.indices[chosen.positions]
            if chosen.weights is not None:
                weights = {int(i): float(w) for i, w in zip(indices, chosen.weights, strict=True)}
        refreshed = None
        if self.config.curriculum.refresh and difficulty is not None:
            refreshed = (device.indices, difficulty.numpy())
        return self.job(
            device, request, indices, trained=self._trained(device, info["layers"]), weights=weights,
            difficulty=refreshed,
        )  # fmt: skip

    def _needs_initialization(self, device: Device) -> bool:
        if device.state is None:
            return self._chooses_layers or self._has_curriculum
        has_rows = any(name.startswith(ROWS) for name in device.state.memory)
        return (self._chooses_layers and not has_rows) or (
            self._has_curriculum and DIFFICULTY not in device.state.memory
        )

    def _initialized(self, device: Device, request: Request, with_layer_scores: bool) -> Initialized:
        """Step 1, beside what the device kept of the warm-up (a local head, its optimizer)."""
        found = initialize(device, device.model(request.tensors), self.config, self.layout, with_layer_scores)
        if device.state is None:
            return found
        before = device.state
        state = DeviceState({**before.local, **found.state.local}, {**before.memory, **found.state.memory})
        return Initialized(state, found.layer_scores)

    def _only_travelling(self, job: TrainJob) -> TrainJob:
        """A warm-up round trains what travels: everything, but for a frozen A."""
        travelling = set(self._shared(None))
        local_head = [p.name for p in self.layout if p.layer is None]
        kept = {n: rows for n, rows in job.trained.items() if n in travelling or n in local_head}
        return TrainJob(**{**job.__dict__, "trained": kept})

    def _trained(self, device: Device, layers: list[int] | None) -> dict[str, Tensor | None]:
        """The GAL and the head whole, of the other layers the rows the device chose."""
        shared = set(self._shared(layers))
        rows = kept_rows_of(device.state).rows if device.state else {}
        trained: dict[str, Tensor | None] = {}
        for p in self.layout:
            if p.name in shared or p.layer is None:
                trained[p.name] = None
            elif layers is not None and p.layer not in layers and len(rows[p.name]):
                trained[p.name] = None if len(rows[p.name]) == p.shape[0] else rows[p.name]
        return trained

    def _initialize(self, device: Device, request: Request) -> Reply:
        """Steps 1 and 2."""
        found = self._initialized(device, request, True)
        tensors = {} if found.layer_scores is None else {"layer_scores": torch.from_numpy(found.layer_scores)}
        return device.keep(Reply(request.address, tensors, self.costs(device)), found.state)

    def _merge_answer(self, device: Device, request: Request) -> Reply:
        """The local layers, sent once because sharing.average_local asks for it; DeviceFailed if they are lost."""
        if not self.config.sharing.average_local:
            raise DeviceFailed("the server asks for its local layers, but sharing.average_local is off here")
        if device.state_lost is not None:
            raise DeviceFailed(f"the state that held its local layers is {device.state_lost}")
        model = device.model({})
        shared = set(self._shared(request.info.get("layers")))
        return Reply(request.address, {n: t for n, t in model.items() if n not in shared}, self.costs(device))

    def conclude(self, device: Device, request: Request, result: LocalResult) -> tuple[Reply, DeviceState | None]:
        """Step 8: upload what is shared; the local layers, their rows and the difficulty stay."""
        if self._off:
            return super().conclude(device, request, result)
        layers = request.info["layers"]
        before = device.model(request.tensors)
        after = {**before, **result.tensors}
        shared = self._shared(layers)
        judged: dict[str, Any] = {}
        if not request.info["warm"]:
            judged["warm"] = False
            if self.config.warm_up.rounds is None:
                judged["accuracy"] = balanced_accuracy(device, before)
        local = {n: after[n] for n in self.layout.names if n not in shared and self._is_local(n, layers)}
        memory = dict(device.state.memory) if device.state else {}
        memory = {n: t for n, t in memory.items() if not n.startswith("optimizer/")}
        memory |= {f"optimizer/{name}": t for name, t in result.optimizer_state.items()}
        if result.difficulty is not None:
            memory[DIFFICULTY] = torch.from_numpy(result.difficulty)
            memory.setdefault(FIRST_DIFFICULTY, memory[DIFFICULTY])
        state = DeviceState(local=local, memory=memory) if local or memory else None
        return Reply(request.address, {n: after[n] for n in shared}, self.costs(device, result) | judged), state

    def _is_local(self, name: str, layers: list[int] | None) -> bool:
        """Whether a parameter that does not travel belongs to the device (a frozen A of a shared layer does not)."""
        parameter = next(p for p in self.layout if p.name == name)
        if parameter.layer is None:
            return True
        return layers is not None and parameter.layer not in layers
