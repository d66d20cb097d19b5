"""Which files a user means: one file, or one for each device."""

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fibecfed.data.formats import SUFFIXES
from fibecfed.data.labels import visible
from fibecfed.errors import InputError

_MOST_NAMES = 8
_SPLITS = ({"train", "training"}, {"test", "testing", "dev", "eval", "val", "valid", "validation"})


@dataclass(frozen=True)
class Location:
    """The files meant, the device of each (None: one file for all), and what lies beside them and is not read."""

    paths: tuple[Path, ...]
    devices: tuple[str, ...] | None = None
    skipped: tuple[str, ...] = ()


def find_files(location: str) -> Location:
    """The files of a file name, a folder or a glob.

    Hidden files, sub-folders and formats that are not read are skipped, and named. Raises InputError if nothing is
    left, two files would be one device, or the files are the splits of one data set.
    """
    path = Path(location).expanduser()
    if path.is_file() or _saved_by_datasets(path):
        return Location((path,))
    found = sorted(path.iterdir() if path.is_dir() else map(Path, glob.glob(str(path), recursive=True)))
    usable = [p for p in found if not _why_not(p)]
    skipped = tuple(f"{p.name} ({why})" for p in found if (why := _why_not(p)))
    if usable:
        names = _device_names(location, usable)
        _check_no_splits(path, dict(zip(names, usable, strict=True)))
        return Location(tuple(usable), tuple(names), skipped)
    if path.is_dir():
        inside = f"; it holds {_listed(skipped)}" if skipped else ""
        below = next((p for p in found if p.is_dir() and not _hidden(p)), None)
        advice = f" For one sub-folder a device name the files in them, as data.file='{path}/*/*.csv'." if below else ""
        raise InputError(
            f"Folder '{path}' holds no {', '.join(SUFFIXES)} file and is no folder saved by `datasets`{inside}.{advice}"
        )
    if found:
        raise InputError(f"'{location}' matches {found[0]}; data files are {', '.join(SUFFIXES)}.")
    raise InputError(f"Data file '{location}' does not exist.")


def skipped_sentence(location: str, found: Location) -> str | None:
    """What was not read, for the user; None if nothing was skipped."""
    return f"Not read in '{location}': {_listed(found.skipped)}." if found.skipped else None


def _why_not(path: Path) -> str | None:
    """Why a file is not read as data; None if it is."""
    if _hidden(path):
        return "hidden"
    if _saved_by_datasets(path):
        return None
    if path.is_dir():
        return "a folder"
    return None if path.is_file() and path.suffix.lower() in SUFFIXES else f"no {', '.join(SUFFIXES)}"


def _hidden(path: Path) -> bool:
    """Beside files with a dot in front these are those that an office program keeps while one of its own is open."""
    return path.name.startswith((".", "~$", "__MACOSX"))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_MOST_NAMES]) + (
        f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    )


def _saved_by_datasets(path: Path) -> bool:
    return any((path / name).is_file() for name in ("dataset_info.json", "dataset_dict.json"))


def _device_names(location: str, paths: Sequence[Path]) -> list[str]:
    """A device for each file: sites/north.csv and sites/north/data.csv (from ``sites/*/data.csv``) are both north."""
    by_folder = not Path(location).expanduser().is_dir() and not set("*?[") & set(Path(location).name)
    names = [visible(path.parent.name if by_folder else path.stem) for path in paths]
    if len(set(names)) < len(names):
        common = os.path.commonpath([path.parent for path in paths])
        whole = [path.relative_to(common).with_suffix("") for path in paths]
        names = [visible((path.parent if by_folder else path).as_posix()) for path in whole]
    doubled = next((name for name in names if names.count(name) > 1), None)
    if doubled is not None:
        first, second = [path for path, name in zip(paths, names, strict=True) if name == doubled][:2]
        raise InputError(f"'{first}' and '{second}' would both be the device '{doubled}'; rename one.")
    return names


def _check_no_splits(folder: Path, paths: dict[str, Path]) -> None:
    """Refuse train.csv beside test.csv: a device called "test" would be trained on."""
    train, test = (next((p for name, p in paths.items() if name.casefold() in words), None) for words in _SPLITS)
    if train is not None and test is not None:
        raise InputError(
            f"'{folder}' would be one file per device, but '{train.name}' and '{test.name}' look like the parts of one "
            f"data set: set data.file={train} data.test_file={test}, or rename them if they are devices."
        )
