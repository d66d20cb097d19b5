"""`fibecfed-plus`: FibecFed with the parts beyond the paper that evidence supports (docs/method.md section 8)."""

from collections.abc import Mapping
from typing import Any, ClassVar

from fibecfed.methods.fibecfed import FibecFed


class FibecFedPlus(FibecFed):
    """The paper's parts, with a corrected loss, a closed-form start, own heads, and sharing that follows the sites.

    Every part is a setting of its own and can be set otherwise; `fedavg-plus` is the control with the parts that need
    neither curriculum nor local layers. Source: project decision (docs/method.md section 8).
    """

    name: ClassVar[str] = "fibecfed-plus"
    place: ClassVar[int] = 15
    paper: ClassVar[str] = "this project"
    trains: ClassVar[str] = "as fibecfed, with as many layers shared as sites are alike; each device fits a head"
    sends: ClassVar[str] = "as fibecfed; sums for the first head and counts of groups once"
    parts: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "curriculum": {"score": "fisher", "initialization": "training", "cap": "auto", "steps": "match"},
        "sharing": {"layers": "consensus", "count": "sites", "rows": "fisher"},
        "training": {"loss": "prior_corrected"},
        "model": {"head_init": "ridge"},
        "personal": {"head": "fitted"},
        "warm_up": {"rounds": 2},
    }
