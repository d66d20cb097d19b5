"""Settings that an earlier version wrote, as it meant them.

Version 0.1 called ``dirichlet`` what is ``dirichlet-hsu`` now. Its files are known by a key that they lack. Its
``warm_up.accuracy`` was an accuracy, and is now a part of the way from chance to 1.
"""

from collections.abc import Mapping
from typing import Any

from fibecfed.config.parts import WarmUpConfig
from fibecfed.config.sites import file_may_name_sites
from fibecfed.errors import InputError

_SINCE = "size_alpha"  # of data.partition: whatever writes all settings writes it since the name means something else
# A file with all of these was written by a program; one by hand means what the keys mean today.
_SECTIONS = frozenset({"method", "seed", "data", "federation", "model", "training", "evaluation", "cost", "runtime"})
_KEYS = frozenset({"kind", "alpha", "shards_per_device", "minimum"})
_PARTITION = "data.partition."
_ACCURACY, _DEFAULT_THEN = "warm_up.accuracy", 0.6


def as_meant(content: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings as the version that wrote them meant them; anything but a whole file of 0.1 stays as it is."""
    data = content.get("data")
    partition = data.get("partition") if isinstance(data, Mapping) else None
    if not isinstance(data, Mapping) or not isinstance(partition, Mapping):
        return dict(content)
    if not content.keys() >= _SECTIONS or not partition.keys() >= _KEYS or _SINCE in partition:
        return dict(content)
    kind = _kind_then(partition["kind"], data.get("file"), data.get("device"))
    found = {**content, "data": {**data, "partition": {**partition, "kind": kind}}}
    warm_up = content.get("warm_up")
    if isinstance(warm_up, Mapping) and "accuracy" in warm_up:
        found["warm_up"] = {**warm_up, "accuracy": _accuracy_then(warm_up["accuracy"])}
    return found


def dotted_as_meant(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The same of all settings of a run by dotted key, as its fingerprint has them."""
    kind = f"{_PARTITION}kind"
    if _PARTITION + _SINCE in settings or kind not in settings:
        return dict(settings)
    found = {**settings, kind: _kind_then(settings[kind], settings.get("data.file"), settings.get("data.device"))}
    if _ACCURACY in found:
        found[_ACCURACY] = _accuracy_then(found[_ACCURACY])
    return found


def _accuracy_then(value: Any) -> Any:
    """Today's default for the default of 0.1, with which a warm-up ends at about the same model.

    Raises InputError for another value, whose meaning today depends on the number of labels.
    """
    if value == _DEFAULT_THEN:
        return WarmUpConfig().accuracy
    raise InputError(
        f"warm_up.accuracy={value} was written by version 0.1, which meant the accuracy itself; now it is the part of "
        "the way from chance to 1. Start a new run with the value that you want."
    )


def _kind_then(kind: str | None, file: str | None, device: str | None) -> str | None:
    """What a partition.kind of version 0.1 is called today.

    None stays None where the data may name its devices. If it names one only, its rows are dealt otherwise than then;
    the digest of who holds what notices that.
    """
    if kind == "dirichlet" or (kind is None and not file_may_name_sites(file, device)):
        return "dirichlet-hsu"
    return kind
