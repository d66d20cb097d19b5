"""Where and with what a result was made."""

import importlib.metadata
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("fibecfed", "torch", "transformers", "peft", "safetensors", "numpy", "tokenizers")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide numbers."""
    return dict(_installed())


@cache
def _installed() -> Mapping[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed as a package"
    return found


def hardware() -> dict[str, Any]:
    """Processor, cores, memory and accelerator."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "accelerator": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "system": platform.system(),
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


@cache
def git_commit() -> str | None:
    """The commit of the checkout this code runs from, with "-dirty" if it was changed; None outside one.

    Asked once a process: what it runs was imported from what lay there then.
    """
    here = Path(__file__).resolve().parent
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],
            cwd=here, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
        inside = subprocess.run(
            ["git", "ls-files", "--error-unmatch", __file__], cwd=here, capture_output=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip() if inside.returncode == 0 else None


def peak_memory_bytes(beside: Sequence[int] = ()) -> int:
    """The process's largest resident set so far; with processes ``beside`` it (Linux) what all of them took together.

    Pages that several of them share count once. Peaks at different times are added up, so together it is never less
    than what was taken at one time, as far as can be seen now.
    """
    if beside:
        return _together([os.getpid(), *beside])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _together(pids: Sequence[int]) -> int:
    """What is resident now, each page once, and how much more each process once had."""
    own, files = 0, [0]
    for pid in pids:
        try:
            shares, held = (_kilobytes(Path(f"/proc/{pid}/{name}")) for name in ("smaps_rollup", "status"))
        except OSError:  # it ended meanwhile
            continue
        own += shares["Pss_Anon"] + shares["Pss_Shmem"] + max(0, held["VmHWM"] - held["VmRSS"])
        files.append(held["RssFile"])  # libraries, which others here may use, too: as one process counts them
    return (own + max(files)) * 1024


def _kilobytes(file: Path) -> dict[str, int]:
    words = (line.split() for line in file.read_text().splitlines())
    return {w[0].removesuffix(":"): int(w[1]) for w in words if len(w) == 3 and w[2] == "kB"}
