"""`fibecfed-plus`: FibecFed with the parts beyond the paper that evidence supports (docs/method.md section 8)."""

from collections.abc import Mapping
from typing import Any, ClassVar

from fibecfed.methods.fibecfed import FibecFed


class FibecFedPlus(FibecFed):
    """The paper's order by Fisher information, with a cap that finds what is wrong, and the parts of `fedavg-plus`.

    Every part is a setting of its own and can be set otherwise; `fedavg-plus` is the control with the parts that need
    neither curriculum nor local layers. Source: project decision (docs/method.md section 8).
    """

    name: ClassVar[str] = "fibecfed-plus"
    place: ClassVar[int] = 15
    paper: ClassVar[str] = "this project"
    trains: ClassVar[str] = "as fedavg-plus, without the hardest examples where the model says that many are wrong"
    sends: ClassVar[str] = "as fedavg-plus; how sure the model is of its groups once"
    parts: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "curriculum": {"score": "fisher", "initialization": "pass", "cap": "auto", "start": 1.0},
        "sharing": {"layers": "all", "rows": "dense"},
        "training": {"loss": "prior_corrected"},
        "model": {"head_init": "class_means"},
        "personal": {"head": "fitted"},
        "warm_up": {"rounds": 2},
    }
