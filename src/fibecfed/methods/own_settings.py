"""The settings that a method brings itself: the keys under `settings` of the configuration."""

from typing import Any

from fibecfed.config import Config, build_settings
from fibecfed.errors import InputError


def own_settings(config: Config, method: Any) -> Any:
    """An instance of the method's class ``settings``; None where it has none.

    Raises InputError for a key that the class does not have, naming the nearest, and for a value that it refuses.
    """
    if method.settings is not None:
        return build_settings(config.settings, method.settings)
    if config.settings:
        first = next(iter(config.settings))
        raise InputError(f"method={method.name} has no settings of its own, so 'settings.{first}' means nothing to it.")
    return None
