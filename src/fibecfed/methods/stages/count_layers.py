"""How many layers are shared, where devices have to be asked (docs/method.md section 5)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch

from fibecfed.federation import (
    COSTS,
    Content,
    Device,
    InfoSpec,
    Members,
    Number,
    Reply,
    Request,
    ServerState,
    TensorSpec,
    WeightedMean,
    Work,
)
from fibecfed.methods.fibecfed_parts.layer_count import (
    Shares,
    count_by_sites,
    device_answer,
    found_count,
    ranked_layers,
)
from fibecfed.methods.fibecfed_parts.plan import Plan
from fibecfed.methods.stages.exchange import Exchange

_SPECTRAL = ("lossless", "plateau")
GROUP_COUNTS = "group_counts"  # what count=sites asks for


@dataclass
class _Answers:
    mean: WeightedMean = field(default_factory=WeightedMean)
    shares: dict[int, tuple[float | None, int]] = field(default_factory=dict)  # r_k, n_k
    groups: dict[int, np.ndarray] = field(default_factory=dict)  # (G,) examples of each group


class CountLayers(Exchange):
    """Devices send held-out losses, or the share of their spectrum that matters; the server fixes the GAL."""

    name: ClassVar[str] = "count layers"

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan.config, plan.layout)
        self.plan = plan

    @property
    def _compares_sites(self) -> bool:
        return self.config.sharing.count == "sites"

    # Server half

    def due(self, state: ServerState) -> bool:
        """Once the order of the layers is known, if their number is not."""
        return state.round < self.config.federation.rounds and self.plan.layers_missing(state)

    def members(self, state: ServerState) -> Members:
        """``sharing.devices``, or as many as take part in a round; where sites are compared, all."""
        if self._compares_sites:
            return Members(self.config.federation.device_count)
        return Members(self.config.sharing.devices or self.config.federation.cohort_size)

    def request(self, state: ServerState, device: int) -> Content:
        """The shared model, how far LoRA moved in the warm-up, and the order of the layers; for counts nothing."""
        if self._compares_sites:
            return {}, {}
        info = {"radius": state.info.get("radius"), "order": state.info.get("order")}
        return self.plan.sent(state, device), info

    def expected(self, state: ServerState) -> tuple[Mapping[str, TensorSpec], Mapping[str, InfoSpec]]:
        """L losses, one share of the spectrum, or how many examples of each group there are."""
        count = self.config.sharing.count
        if self._compares_sites:
            return {GROUP_COUNTS: TensorSpec((self.layout.groups,), torch.float64)}, COSTS
        tensors = {"losses": TensorSpec((self.layout.layers,), torch.float64)} if count == "functional" else {}
        share = {"kept_share": Number(0, 1, or_none=True, required=True)} if count in _SPECTRAL else {}
        return tensors, {**COSTS, **share}

    def problem(self, state: ServerState, reply: Reply) -> str | None:
        """Counts are whole numbers that add up."""
        counts = reply.tensors.get(GROUP_COUNTS)
        if counts is None:
            return None
        whole = (counts >= 0).all() and (counts == counts.round()).all()
        if whole and float(counts.sum()) == reply.info["examples"]:
            return None
        return "its counts of groups are not whole numbers that add up to its examples"

    def accumulator(self, state: ServerState) -> _Answers:
        return _Answers()

    def fold(self, accumulator: _Answers, reply: Reply) -> None:
        if GROUP_COUNTS in reply.tensors:
            accumulator.groups[reply.address.device] = reply.tensors[GROUP_COUNTS].numpy()
            return
        super().fold(accumulator.mean, reply)
        if "kept_share" in reply.info:
            accumulator.shares[reply.address.device] = (reply.info["kept_share"], int(reply.info["examples"]))

    def finish(self, state: ServerState, accumulator: _Answers) -> ServerState:
        """Step 3: as many layers as the rule finds are the GAL."""
        if self._compares_sites:
            return self.plan.fixed(state, *count_by_sites(self.config, self.layout.layers, accumulator.groups))
        order = ranked_layers(self.config, self.layout.layers, state.info.get("order"))
        losses = accumulator.mean.result().get("losses")
        shares: Shares = accumulator.shares
        found = found_count(self.config, self.layout.layers, order, None if losses is None else losses.tolist(), shares)
        return self.plan.fixed(state, *found)

    # Device half

    def work(self, device: Device, request: Request) -> Work:
        """What the rule needs to know."""
        if self._compares_sites:
            counts = torch.from_numpy(device.group_counts).double()
            return Reply(request.address, {GROUP_COUNTS: counts}, self.costs(device))
        tensors, answer = yield from device_answer(device, request, self.config, self.layout)
        return Reply(request.address, tensors, {**self.costs(device), **answer})
