"""Which methods have no meaning for a language model."""

from fibecfed.config import CAUSAL_LM, Config, task_name
from fibecfed.errors import InputError

_CLASSES = "needs a fixed set of answers, which responses are not"
_HEAD = "is about a trained head, and that of a language model is frozen"
_LEAKS = "makes its prompt of the whole text, in which the response stands that is to be predicted"
_REFUSED = {
    "device-majority": _CLASSES,
    "fedavg+prior": _CLASSES,
    "ridge-head": _HEAD,
    "head-only": _HEAD,
    "fedavg+local-head": _HEAD,
    "fedavg-plus": _HEAD,
    "fedrod": _HEAD,
    "fibecfed-plus": _HEAD,
    "lpt": _LEAKS,
    "idpg": _LEAKS,
    "attempt": _LEAKS,
}
_TUNINGS = ("lora", "sparse-lora", "delta-lora", "svd-lora", "adapter", "prompt", "prefix")


def refused(config: Config, tuning: str) -> str | None:
    """What a method or kind of tuning does that a language model cannot have, after "it"; None if it can be had."""
    if task_name(config) != CAUSAL_LM:
        return None
    reason = _REFUSED.get(config.method)
    if reason is None and tuning not in _TUNINGS:
        reason = f"has tuning={tuning}, of which it is not known what it does to a language model"
    return reason


def check_method(config: Config, tuning: str) -> None:
    """Raise InputError for a method or kind of tuning that a language model cannot have."""
    reason = refused(config, tuning)
    if reason is not None:
        raise InputError(
            f"method={config.method} {reason}; for task.kind=causal-lm take another method, such as fedavg-lora or "
            "fibecfed."
        )
