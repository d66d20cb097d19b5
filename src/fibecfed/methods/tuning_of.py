"""Which kind of tuning a run has, and settings that this kind has no use for."""

from typing import Any

from fibecfed.config import Config
from fibecfed.errors import InputError
from fibecfed.tuning import TUNINGS

# Settings that mean something for LoRA's pairs only: (key, the value that asks for it).
_LORA_ONLY = (
    ("sharing.freeze_a", True),
    ("sharing.layers", "reset_loss"),
    ("sharing.count", "functional"),
)


def tuning_of(config: Config, method: Any) -> str:
    """The kind that the configuration asks for, or else the method's own.

    Raises InputError if the method has no such kind, or a setting is of no use to the kind. The section `lora` may
    stand beside any kind: a comparison gives it once, for all its methods.
    """
    kind = config.tuning or method.tuning
    kinds = (method.tuning, *method.tunings)
    if kind not in kinds:
        raise InputError(f"method={method.name} cannot have tuning={kind}; it takes {' or '.join(kinds)}.")
    default = Config()
    for other in TUNINGS.values():
        for section in other.sections:
            used = section == "lora" or section in TUNINGS[kind].sections
            if not used and getattr(config, section) != getattr(default, section):
                raise InputError(
                    f"The settings under '{section}' belong to tuning={other.name}, but method={method.name} has "
                    f"tuning={kind}; remove them."
                )
    if kind != "lora":
        for key, value in _LORA_ONLY:
            section, name = key.split(".")
            if getattr(getattr(config, section), name) == value:
                raise InputError(f"{key}={value} is defined by LoRA's pairs of matrices; it needs tuning=lora.")
    return kind
