"""`fibecfed`: Fisher-information curriculum, global aggregation layers (GAL), sparse personal layers.

"Fisher Information-based Efficient Curriculum Federated Learning with Large Language Models" (EMNLP 2024,
arXiv 2410.00131); details as docs/method.md decides them. The nine steps of its protocol, and the stage of each:

    initialization   1 devices score their examples and the layers   ScoreLayers.work
                     2 they upload the layer scores, nothing else    ScoreLayers.work
                     3 the server aggregates them and fixes the GAL  ScoreLayers.finish, or CountLayers.finish
                     4 it tells every device                         CurriculumTrain.request
                     5 a device picks its local update parameters    ScoreLayers.work (used in 7)
    every round      6 the server sends the GAL parameters           CurriculumTrain.request
                     7 a device trains them densely and its local
                       update parameters sparsely, on its curriculum CurriculumTrain.work
                     8 it uploads the GAL parameters, nothing else   CurriculumTrain.conclude
                     9 the server averages them, weighted by n_k     CurriculumTrain.finish

Before that comes the warm-up: ordinary FedAvg rounds, until the model can judge difficulty [D].
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from fibecfed.federation import ServerState, Site, Stage
from fibecfed.methods.base import FederatedAveraging
from fibecfed.methods.fibecfed_parts.decisions import decisions
from fibecfed.methods.fibecfed_parts.plan import ONLY_INITIALIZED, Plan, noted
from fibecfed.methods.stages import CountLayers, CurriculumTrain, Merge, ScoreLayers, WarmUp
from fibecfed.sharing import fixed_count


class FibecFed(FederatedAveraging):
    """The method, each part of which a setting can switch off or replace (docs/method.md section 10)."""

    name: ClassVar[str] = "fibecfed"
    place: ClassVar[int] = 10
    paper: ClassVar[str] = "EMNLP 2024, arXiv 2410.00131"
    trains: ClassVar[str] = "LoRA of the GAL and the head densely, rows of the other layers, on a growing easy part"
    sends: ClassVar[str] = "LoRA of the GAL and the head; layer scores once"
    parts: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "curriculum": {"score": "fisher", "initialization": "pass"},
        "sharing": {"layers": "sensitivity", "rows": "fisher"},
    }
    takes_parts: ClassVar[bool] = True
    tunings: ClassVar[tuple[str, ...]] = ("adapter",)

    def _prepare(self) -> None:
        self.plan = Plan(self.config, self.layout)
        self.keeps_device_state = self.plan.has_local_parts

    def rounds(self) -> Sequence[Stage]:
        """Warm-up, initialization, rounds; with everything off the rounds of fedavg-lora."""
        plan = self.plan
        if plan.is_off:
            return super().rounds()
        return (WarmUp(plan), ScoreLayers(plan), CountLayers(plan), CurriculumTrain(plan))

    def after_rounds(self) -> Sequence[Stage]:
        """The local layers are averaged once, if a setting asks for it."""
        return (Merge(self.plan),) if self.config.sharing.average_local and self.plan.chooses_layers else ()

    def shared(self, state: ServerState) -> tuple[str, ...]:
        """Every parameter during the warm-up; then the GAL's and the head's."""
        return self.plan.travelling(state.info.get("layers"))

    def personal_devices(self, state: ServerState) -> Sequence[int]:
        """Those that trained; one that was only initialised has nothing of its own yet."""
        waiting = set(state.info.get(ONLY_INITIALIZED, ()))
        return [device for device in super().personal_devices(state) if device not in waiting]

    def is_closed(self, state: ServerState) -> bool:
        """Once the local layers are merged."""
        return bool(state.info.get("merged"))

    def init(self, tensors: Mapping[str, Tensor]) -> ServerState:
        """Layers that no device has to be asked for are fixed at once."""
        return self.plan.without_devices(super().init(tensors))

    def midway(self, state: ServerState) -> ServerState:
        """After the warm-up, with as many layers shared as the setting says; half of them where devices decide."""
        state, plan = super().midway(state), self.plan
        if plan.is_off:
            return state
        warm_up, rounds = plan.most_warm_up, self.config.federation.rounds
        state = noted(state, warm_up=warm_up, met=list(range(self.config.federation.device_count)))
        state = state.replace(round=warm_up + (rounds - warm_up) // 2)
        if not plan.chooses_layers:
            return state
        count = self.config.sharing.count
        number = fixed_count(0.5 if count is None or isinstance(count, str) else count, self.layout.layers)
        return noted(state, layers=list(range(self.layout.layers))[-number:])

    def decisions(self, site: Site, state: ServerState) -> Mapping[str, Any]:
        """Layers, densities, difficulty, prefix; see fibecfed_parts/decisions.py."""
        return {} if self.plan.is_off else decisions(site, state, self.config, self.layout, self.shared(state))
