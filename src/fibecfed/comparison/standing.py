"""Which methods of a setting are the best, and which cannot be told from it."""

from fibecfed.comparison.findings import Findings
from fibecfed.comparison.spec import Setting
from fibecfed.comparison.statistics import CENTRALIZED, paired_interval

BEST, LEVEL = "best", "level"


def standings(found: Findings, setting: Setting, protocol: str) -> dict[str, str]:
    """``best`` for the best mean over seeds and all equal to it, ``level`` where a line is not significantly worse.

    Not significantly worse: the 95 % interval of the differences from the best, paired over seeds, holds 0. With fewer
    than two pairs nothing can be told, and only the best is named. centralized-lora, which gathers what
    may not be gathered, is out of the competition.
    """
    entries = [e.name for e in found.spec.methods if e.method_name != CENTRALIZED]
    means = {name: found.mean(setting, name, protocol) for name in entries}
    known = {name: found.judged.sign * mean for name, mean in means.items() if mean is not None}
    if not known:
        return {}
    best = max(known, key=lambda name: known[name])
    first = found.seeds(setting, best, protocol)
    standing = {name: BEST for name in known if known[name] == known[best]}
    for name in known.keys() - standing.keys():
        other = found.seeds(setting, name, protocol)
        pairs = [first[seed].goodness(protocol) - other[seed].goodness(protocol) for seed in first if seed in other]
        if len(pairs) > 1:
            low = paired_interval(pairs).low
            if low is not None and low <= 0:
                standing[name] = LEVEL
    return standing
