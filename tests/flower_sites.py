"""Three sites with text of their own, as files, for runs over machines and the same run in one process."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from fibecfed import Config
from fibecfed.config import DeviceConfig, build_config, merge, to_dict
from fibecfed.flower.serving import DeviceServer

NAMES = ("east", "north", "west")


def write_sites(rows_file: Path, folder: Path) -> Path:
    """sites/NAME.csv and tests/NAME.csv in ``folder``, of different sizes."""
    rows = pd.read_csv(rows_file)
    for part in ("sites", "tests"):
        (folder / part).mkdir()
    for name, (start, stop) in zip(NAMES, [(0, 30), (30, 80), (80, 120)], strict=True):
        rows[start : stop - 9].to_csv(folder / "sites" / f"{name}.csv", index=False)
        rows[stop - 9 : stop].to_csv(folder / "tests" / f"{name}.csv", index=False)
    return folder


def together(small: Config, sites: Path, method: str, rounds: int = 4) -> Config:
    """The run in one process: all sites' files are here."""
    content = merge(
        to_dict(small),
        {
            "method": method,
            "data": {
                "file": str(sites / "sites"), "test_file": str(sites / "tests"), "validation_fraction": 0.0,
                "labels": ["billing", "delivery", "praise"], "partition": {"kind": "column"},
            },
            "federation": {"devices": 3, "sampled": 2, "rounds": rounds},
            "training": {"keep_optimizer": True},
        },
    )  # fmt: skip
    return build_config(content)


def servers(config: Config) -> Config:
    """The same run as the server has it: without any text."""
    return build_config(merge(to_dict(config), {"data": {"file": None, "test_file": None}}))


def same_adapters(one: Path, server: Path, folders: Sequence[Path]) -> None:
    """The server's adapter and those in the devices' folders are those of the run in one process, bit for bit."""
    for path in sorted((one / "adapter").glob("*.safetensors")):
        assert path.read_bytes() == (server / "adapter" / path.name).read_bytes()
    for number, folder in enumerate(folders):
        kept = next(folder.glob("*/adapter"))
        theirs = one / "adapters" / str(number)
        expected = theirs if theirs.is_dir() else one / "adapter"
        for path in sorted(expected.glob("*.safetensors")):
            assert path.read_bytes() == (kept / path.name).read_bytes(), f"device {number}: {path.name}"


def devices(sites: Path, folder: Path, model: str) -> dict[int, DeviceServer]:
    """The sites' own processes, by Flower's node number."""
    return {
        100 + number: DeviceServer(
            DeviceConfig(
                device=number,
                folder=str(folder / name),
                data={"file": str(sites / "sites" / f"{name}.csv"), "test_file": str(sites / "tests" / f"{name}.csv")},
                model={"name": model},
            ),
            lambda line: None,
        )
        for number, name in enumerate(NAMES)
    }
