"""What a device on a machine of its own is told by its owner; everything else comes from the server."""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from fibecfed.config.instructions import check_columns
from fibecfed.config.loading import check_keys, merge, parse_overrides, read_yaml, to_dict, with_numbers
from fibecfed.config.paths import HOME, from_home
from fibecfed.config.schema import Config, ModelConfig, RuntimeConfig
from fibecfed.errors import InputError

_STRICT_KEYS = ConfigDict(extra="forbid")


@dataclass(config=_STRICT_KEYS, frozen=True)
class DeviceData:
    """The device's own text. Nothing the server says can change it."""

    file: Annotated[str, HOME, Field(description="Its training data; see data.file of a run.")] = ""
    test_file: Annotated[
        str | None,
        HOME,
        Field(description="Text to evaluate its model on. None: a part of file (data.test_fraction)."),
    ] = None
    text: Annotated[str, Field(description="Column with the (first) text.")] = "text"
    text_pair: Annotated[str | None, Field(description="Column with the second text; None: one text a row.")] = None
    label: Annotated[str, Field(description="Column with the label.")] = "label"
    separator: Annotated[str, Field(min_length=1, max_length=1, description="What separates columns of a CSV.")] = ","
    prompt: Annotated[str | None, Field(description="causal-lm: column with the prompt. None: prompt.")] = None
    response: Annotated[str | None, Field(description="causal-lm: column with the response. None: response.")] = None
    context: Annotated[
        str | None, Field(description="causal-lm: column with text that belongs to the prompt. None: none.")
    ] = None
    system: Annotated[str | None, Field(description="causal-lm: column with a system message. None: none.")] = None
    messages: Annotated[
        str | None,
        Field(
            description="causal-lm: column with a list of {role, content} turns, instead of prompt and response. None: "
            "messages, where the file has that column, and not prompt and response."
        ),
    ] = None
    group: Annotated[
        str | None, Field(description="causal-lm: column with a category, by which draws are stratified. None: none.")
    ] = None

    def __post_init__(self) -> None:
        """Raise InputError for columns that exclude one another."""
        check_columns(self)


@dataclass(config=_STRICT_KEYS, frozen=True)
class DeviceModel:
    """Where the frozen model lies on this machine."""

    name: Annotated[
        str | None,
        HOME,
        Field(description="A folder, `minilm` or a hub name with the server's weights. None: its name."),
    ] = None
    allow_download: Annotated[bool, Field(description="Whether it may be fetched from the Hugging Face hub.")] = False


@dataclass(config=_STRICT_KEYS, frozen=True)
class DeviceConfig:
    """One device: which it is, its text, its folder and its hardware."""

    device: Annotated[int, Field(ge=0, description="Which device of the federation this is, from 0.")] = 0
    folder: Annotated[
        str, HOME, Field(description="Its own folder: state between rounds, and its adapter when a run has ended.")
    ] = "device"
    data: DeviceData = Field(default_factory=DeviceData)
    model: DeviceModel = Field(default_factory=DeviceModel)
    runtime: RuntimeConfig = Field(default_factory=RuntimeConfig)

    def apply(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """The server's configuration, as nested values, with what only this device decides in its place.

        The server names neither files nor folders here, nor whether the network is used.
        """
        own: dict[str, Any] = {
            "data": {**dataclasses.asdict(self.data), "device": None, "name": Config().data.name, "dir": ""},
            "model": {"allow_download": self.model.allow_download, "dir": ModelConfig().dir},
            "runtime": dataclasses.asdict(self.runtime),
        }
        if self.model.name is not None:
            own["model"]["name"] = self.model.name
        own["data"]["allow_download"] = False
        return merge(content, own)


_ADAPTER = TypeAdapter(DeviceConfig)
_FOLDERS = ("file", "test_file")


def load_device_config(path: Path, overrides: Iterable[str] = ()) -> DeviceConfig:
    """A device's configuration; its file names are relative to the folder of the YAML file.

    Raises InputError for an unknown key, a value out of bounds, or no data.file.
    """
    content = merge(_relative_to(path.resolve().parent, read_yaml(path)), parse_overrides(overrides))
    check_keys(content, DeviceConfig)
    try:
        config = _ADAPTER.validate_python(with_numbers(content, DeviceConfig))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        raise InputError(f"'{path}': '{name}' cannot be {first['input']!r}: {first['msg']}.") from None
    if config.runtime.workers not in ("auto", 1):
        raise InputError(
            f"'{path}': runtime.workers={config.runtime.workers}, but the process of a device runs that device alone; "
            "leave it out."
        )
    if not config.data.file:
        raise InputError(f"'{path}' does not say where the device's text is: set data.file.")
    return config


def _relative_to(folder: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Relative names of files in ``content`` taken from ``folder``."""
    found: dict[str, Any] = {"folder": str(folder / "device"), **content}
    if isinstance(found["folder"], str):
        found["folder"] = str(folder / from_home(found["folder"]))
    if isinstance(data := found.get("data"), dict):
        found["data"] = {
            k: str(folder / from_home(v)) if k in _FOLDERS and isinstance(v, str) else v for k, v in data.items()
        }
    return found


def shared_settings(config: Config) -> dict[str, Any]:
    """What a server tells devices of a run: everything but where text, models and folders lie on its own machine."""
    content = to_dict(config)
    for key in ("dir", "device", *(field.name for field in dataclasses.fields(DeviceData))):
        content["data"].pop(key)
    content["model"].pop("dir")
    content["runtime"].pop("device_states")
    return content
