"""The methods of this package: every class with a name of its own in a module beside this one."""

import importlib
import math
import pkgutil

import fibecfed.methods as package
from fibecfed.methods.base import FederatedAveraging


def inside() -> dict[str, type[FederatedAveraging]]:
    """The methods by name, in the order of their ``place``; those without one of their own last, by name."""
    found: list[type[FederatedAveraging]] = []
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        for thing in vars(importlib.import_module(module.name)).values():
            if isinstance(thing, type) and issubclass(thing, FederatedAveraging) and thing.__module__ == module.name:
                found.append(thing)
    named = [method for method in found if "name" in vars(method)]
    named.sort(key=lambda method: (vars(method).get("place", math.inf), method.name))
    methods = {method.name: method for method in named}
    assert len(methods) == len(named), "two methods have one name"
    return methods
