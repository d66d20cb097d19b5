"""Settings that follow the data where they are left alone: who the devices are, how many, how many a round."""

import dataclasses
from pathlib import Path

from fibecfed.config.federation import DEVICES, SAMPLED
from fibecfed.config.schema import Config

_NAMES_NO_SITES = (".csv", ".tsv", ".jsonl", ".parquet")


def settle(config: Config, sites: int | None = None) -> Config:
    """The configuration with partition.kind, federation.devices and federation.sampled said.

    ``sites`` is how many devices the data names, None if it names none. Several in data.file are the devices; those of
    a data set by name only with partition.kind=column. Raises InputError for settings that contradict what was found.
    """
    data, federation = config.data, config.federation
    kind = data.partition.kind
    if kind is None:
        named = data.file is not None and sites is not None and sites > 1
        kind = "column" if named and data.partition.examples_per_device is None else "dirichlet"
    devices = federation.devices or (sites if kind == "column" else None) or DEVICES
    sampled = federation.sampled or min(SAMPLED, devices)
    if (kind, devices, sampled) == (data.partition.kind, federation.devices, federation.sampled):
        return config
    return dataclasses.replace(
        config,
        data=dataclasses.replace(data, partition=dataclasses.replace(data.partition, kind=kind)),
        federation=dataclasses.replace(federation, devices=devices, sampled=sampled),
    )


def may_name_sites(config: Config) -> bool:
    """Whether only the data can say who the devices are: a folder, a glob or a device column of the user's own."""
    return config.data.partition.kind == "column" or file_may_name_sites(config.data.file, config.data.device)


def file_may_name_sites(file: str | None, device: str | None) -> bool:
    """Whether this data.file with this data.device can say who the devices are."""
    if file is None:
        return False
    return device is not None or bool(set("*?[") & set(file)) or Path(file).suffix.lower() not in _NAMES_NO_SITES
