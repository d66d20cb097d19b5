"""Settings that an earlier version wrote, as it meant them.

Version 0.1 called ``dirichlet`` what is ``dirichlet-hsu`` now. Its files are known by a key that they lack. Its
``warm_up.accuracy`` was an accuracy, and is now a part of the way from chance to 1.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from fibecfed.config.parts import WarmUpConfig
from fibecfed.config.sites import file_may_name_sites
from fibecfed.errors import InputError

_SINCE = "size_alpha"  # of data.partition: whatever writes all settings writes it since the name means something else
# A file with all of these was written by a program; one by hand means what the keys mean today.
_SECTIONS = frozenset({"method", "seed", "data", "federation", "model", "training", "evaluation", "cost", "runtime"})
_KEYS = frozenset({"kind", "alpha", "shards_per_device", "minimum"})
_PARTITION = "data.partition."
_KIND, _ACCURACY, _DEFAULT_THEN = f"{_PARTITION}kind", "warm_up.accuracy", 0.6


def as_meant(content: Mapping[str, Any]) -> dict[str, Any]:
    """Settings, nested or all of them by dotted key, as the version that wrote them meant them.

    Anything but all the settings of 0.1 stays as it is.
    """
    if _KIND in content:
        return {**content, **_changed(content)}
    if not content.keys() >= _SECTIONS or not isinstance(content["data"], Mapping):
        return dict(content)
    partition = content["data"].get("partition")
    if not isinstance(partition, Mapping) or not partition.keys() >= _KEYS:
        return dict(content)
    found = dict(content)
    for key, value in _changed(_dotted(content)).items():
        _put(found, key.split("."), value)
    return found


def _changed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """By dotted key what all settings of a run mean today, where that is something else."""
    if _PARTITION + _SINCE in settings:
        return {}
    found = {_KIND: _kind_then(settings[_KIND], settings.get("data.file"), settings.get("data.device"))}
    if _ACCURACY in settings:
        found[_ACCURACY] = _accuracy_then(settings[_ACCURACY])
    return found


def _dotted(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in content.items():
        found |= _dotted(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def _put(content: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Set one nested value; mappings on the way are copied first."""
    for key in path[:-1]:
        below = dict(content[key])
        content[key] = below
        content = below
    content[path[-1]] = value


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
