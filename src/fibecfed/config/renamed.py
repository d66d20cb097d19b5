"""Keys that an earlier version had under another name, so that its runs and committed records can still be read."""

from collections.abc import Mapping
from typing import Any

_LAYERS, _HEAD = "layers", "head"


def in_todays_keys(content: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings; what 0.1 called ``personal.layers`` and a true or false ``personal.head`` is of ``fedalt``."""
    personal = content.get("personal")
    if not isinstance(personal, Mapping):
        return dict(content)
    moved = {key for key in personal if key == _LAYERS or (key == _HEAD and isinstance(personal[key], bool))}
    if not moved:
        return dict(content)
    said = content.get("fedalt")
    return {
        **content,
        "personal": {key: value for key, value in personal.items() if key not in moved},
        "fedalt": {**{key: personal[key] for key in moved}, **(said if isinstance(said, Mapping) else {})},
    }
