"""What FibecFed's server keeps of a phase's replies beside their mean."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fibecfed.federation import Aggregator, Reply
from fibecfed.sharing import ConsensusSum
from fibecfed.tuning import Layout


@dataclass
class Gathered:
    """An accumulator of the replies of one phase."""

    mean: Aggregator
    accuracy: list[tuple[float, float]] = field(default_factory=list)  # balanced accuracy, weight
    distances: list[float] = field(default_factory=list)  # how far LoRA moved
    consensus: ConsensusSum | None = None
    shares: dict[int, tuple[float | None, int]] = field(default_factory=dict)  # r_k, n_k
    sent: Mapping[str, Tensor] = field(default_factory=dict)
    met: list[int] = field(default_factory=list)  # who answered

    def note(self, reply: Reply, layout: Layout) -> None:
        """Take what a reply says beside the tensors that are averaged."""
        self.met.append(reply.address.device)
        info, weight = reply.info, float(reply.info["examples"])
        if "accuracy" in info:
            self.accuracy.append((float(info["accuracy"]), weight))
        if "kept_share" in info:
            self.shares[reply.address.device] = (info["kept_share"], int(weight))
        if self.sent and not info.get("warm", True):
            moved = {n: t - self.sent[n] for n, t in reply.tensors.items()}
            layers = [moved[p.name] for p in layout if p.layer is not None and p.name in moved]
            self.distances.append(sum(float(t.double().square().sum()) for t in layers) ** 0.5)
            if self.consensus is not None:
                zero = {p.name: torch.zeros(p.shape) for p in layout}
                self.consensus.fold(zero | moved, weight)
