"""Methods of other packages: found by their entry points, imported only when one is named or all are listed."""

import dataclasses
import importlib.metadata
import os
import sys
from functools import lru_cache
from importlib.metadata import EntryPoint, EntryPoints
from typing import Any

from pydantic.dataclasses import is_pydantic_dataclass

from fibecfed.config import Config, nearest_hint, settings_section, to_dict
from fibecfed.errors import InputError
from fibecfed.methods.base import FederatedAveraging
from fibecfed.tuning import TUNINGS

GROUP = "fibecfed.methods"


def entry_points(name: str) -> list[EntryPoint]:
    """What other packages bring under that name, by the name of the package."""
    return sorted(_installed().select(name=name), key=_owner)


def outside_names() -> list[str]:
    """The names that other packages bring, ascending; imports none of them."""
    return sorted(_installed().names)


def package_of(name: str) -> str:
    """The package that brings the method of that name, with its version; an empty text for fibecfed's own."""
    return ", ".join(map(_owner, entry_points(name)))


def package_versions(name: str) -> dict[str, str]:
    """The version of the package that brings the method of that name; {} for fibecfed's own."""
    return {point.dist.name: point.dist.version for point in entry_points(name) if point.dist is not None}


def _installed() -> EntryPoints:
    """What other packages bring; read anew where a folder of packages has changed, for it takes 10 ms."""
    return _read(tuple((folder, _state(folder or ".")) for folder in sys.path))


@lru_cache(maxsize=1)
def _read(folders: tuple[tuple[str, object], ...]) -> EntryPoints:
    return importlib.metadata.entry_points(group=GROUP)


def _state(folder: str) -> tuple[int, int, int] | None:
    """Which folder it is and when something was last put into it or taken out; None: there is none."""
    try:
        found = os.stat(folder)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns


def _owner(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else point.value


def load(name: str, inside: bool) -> type[FederatedAveraging] | None:
    """The class of that name of another package; None if there is none. ``inside``: fibecfed has one itself.

    Raises InputError if several bring the name, or what one brings cannot be imported or is no method.
    """
    points = entry_points(name)
    if not points:
        return None
    owners = [*(["fibecfed"] if inside else []), *map(_owner, points)]
    if len(owners) > 1:
        raise InputError(
            f"Several packages bring a method '{name}': {', '.join(owners)}; uninstall all but one, or rename theirs "
            f"(entry point group {GROUP})."
        )
    try:
        found = points[0].load()
    except Exception as error:  # whatever a package does when it is imported
        raise InputError(
            f"Method '{name}' of the package {owners[0]} cannot be imported ({type(error).__name__}: "
            f"{' '.join(str(error).split())}); mend or uninstall that package."
        ) from error
    lacks = _lacks(found, name)
    if lacks is not None:
        raise InputError(f"Method '{name}' of the package {owners[0]} ({points[0].value}) cannot be used: {lacks}.")
    return found  # type: ignore[no-any-return]  # checked by _lacks


def _lacks(found: Any, name: str) -> str | None:
    """The first thing that keeps an object from being a method of that name; None if nothing does."""
    if not (isinstance(found, type) and issubclass(found, FederatedAveraging)):
        return "it is no subclass of fibecfed.methods.FederatedAveraging"
    declared = vars(found).get("name")
    if declared != name:
        return f"its class has to say name = '{name}', as its entry point does"
    for attribute in ("paper", "trains", "sends"):
        if not isinstance(getattr(found, attribute), str):
            return f"its attribute '{attribute}' is no text"
    if isinstance(found.tunings, str):
        return "its attribute 'tunings' is a text, where a tuple of texts belongs"
    for kind in (found.tuning, *found.tunings):
        if kind not in TUNINGS:
            return f"there is no kind of tuning '{kind}'.{nearest_hint(str(kind), TUNINGS)} Known: {', '.join(TUNINGS)}"
    return _wrong_sections(found) or _wrong_settings(found)


def _wrong_sections(found: type[FederatedAveraging]) -> str | None:
    known = {name: keys for name, keys in to_dict(Config()).items() if isinstance(keys, dict)}
    for section in (*found.sections, *found.parts):
        if section not in known:
            return f"the configuration has no section '{section}'.{nearest_hint(str(section), known)}"
    for section, keys in found.parts.items():
        for key in keys:
            if key not in known[section]:
                return f"the configuration has no key '{section}.{key}'.{nearest_hint(str(key), known[section])}"
    return None


def _wrong_settings(found: type[FederatedAveraging]) -> str | None:
    settings = found.settings
    if settings is None:
        return None
    if not (isinstance(settings, type) and is_pydantic_dataclass(settings)):
        return "its attribute 'settings' is no class made with pydantic.dataclasses.dataclass"
    for field in dataclasses.fields(settings):
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            return f"its setting '{field.name}' has no default"
    try:
        settings_section(settings)()
    except Exception as error:  # whatever a package's class does when it checks itself
        return f"its settings cannot be made from their defaults ({' '.join(str(error).split())})"
    return None
