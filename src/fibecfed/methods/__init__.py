"""The methods by name. To add one, write a file with a class and list it here."""

from fibecfed.config import nearest_hint
from fibecfed.errors import InputError
from fibecfed.methods.base import FederatedAveraging
from fibecfed.methods.centralized_lora import CentralizedLora
from fibecfed.methods.local_only import LocalOnly

METHODS: dict[str, type[FederatedAveraging]] = {
    m.name: m
    for m in (
        FederatedAveraging,
        CentralizedLora,
        LocalOnly,
    )
}


def method_class(name: str) -> type[FederatedAveraging]:
    """The method of that name. Raises InputError naming the nearest known one."""
    if name not in METHODS:
        hint = nearest_hint(name, METHODS)
        raise InputError(f"Unknown method '{name}' (key 'method').{hint} Known: {', '.join(METHODS)}.")
    return METHODS[name]


__all__ = ["METHODS", "FederatedAveraging", "method_class"]
