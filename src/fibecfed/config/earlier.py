"""Settings that an earlier version wrote, as it meant them.

Version 0.1 called ``dirichlet`` what is ``dirichlet-hsu`` now. Its files are known by a key that they lack.
"""

from collections.abc import Mapping
from typing import Any

from fibecfed.config.sites import file_may_name_sites

_SINCE = "size_alpha"  # of data.partition: whatever writes all settings writes it since the name means something else
# A file with all of these was written by a program; one by hand means what the keys mean today.
_SECTIONS = frozenset({"method", "seed", "data", "federation", "model", "training", "evaluation", "cost", "runtime"})
_KEYS = frozenset({"kind", "alpha", "shards_per_device", "minimum"})
_PARTITION = "data.partition."


def as_meant(content: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings as the version that wrote them meant them; anything but a whole file of 0.1 stays as it is."""
    data = content.get("data")
    partition = data.get("partition") if isinstance(data, Mapping) else None
    if not isinstance(data, Mapping) or not isinstance(partition, Mapping):
        return dict(content)
    if not content.keys() >= _SECTIONS or not partition.keys() >= _KEYS or _SINCE in partition:
        return dict(content)
    kind = _kind_then(partition["kind"], data.get("file"), data.get("device"))
    return {**content, "data": {**data, "partition": {**partition, "kind": kind}}}


def dotted_as_meant(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The same of all settings of a run by dotted key, as its fingerprint has them."""
    kind = f"{_PARTITION}kind"
    if _PARTITION + _SINCE in settings or kind not in settings:
        return dict(settings)
    return {**settings, kind: _kind_then(settings[kind], settings.get("data.file"), settings.get("data.device"))}


def _kind_then(kind: str | None, file: str | None, device: str | None) -> str | None:
    """What a partition.kind of version 0.1 is called today.

    None stays None where the data may name its devices. If it names one only, its rows are dealt otherwise than then;
    the digest of who holds what notices that.
    """
    if kind == "dirichlet" or (kind is None and not file_may_name_sites(file, device)):
        return "dirichlet-hsu"
    return kind
