"""`voc`: rare words late."""

from collections.abc import Mapping
from typing import Any, ClassVar

from fibecfed.methods.fibecfed import FibecFed


class Voc(FibecFed):
    """fedavg-lora on the competence-based curriculum of Platanios et al. 2019 with sentence rarity as difficulty.

    In round t of the curriculum a device draws from its c(t) easiest examples, c(t) = min(1, sqrt(t (1 - c0^2) / T +
    c0^2)) (equation 7). The difficulty is -sum log p(word) (section 3.1), c0 = ``curriculum.competence`` = 0.01 as in
    the paper, T = ``curriculum.full_at`` of the rounds after the warm-up. p is counted on each device over its own
    text, which never leaves it. As in the paper the number of steps does not depend on c(t): a device takes as many
    as FibecFed with the same settings (its warm-up and linear pacing from ``curriculum.start``), so that only the
    choice of examples differs. An easy part smaller than that is gone through more than once. ``warm_up.rounds=0``
    starts the curriculum at once. With c0 = 1 and start = 1 it is fedavg-lora. Parameters and bytes: as fedavg-lora;
    difficulties stay on the device.
    """

    name: ClassVar[str] = "voc"
    place: ClassVar[int] = 190
    paper: ClassVar[str] = "Platanios et al. 2019"
    trains: ClassVar[str] = "as fedavg-lora, on examples of frequent words first"
    sends: ClassVar[str] = "as fedavg-lora"
    parts: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "curriculum": {"score": "rarity", "stratified": False, "pacing": "competence"},
        "sharing": {"layers": "all", "rows": "dense"},
    }
