"""How much memory hidden states may take: a part of what is free when a run begins."""

import os
from pathlib import Path

import torch

from fibecfed.config import Config
from fibecfed.training.cores import all_cores, cores_here

PART = 0.25  # of what is free [D]


def cache_bytes(config: Config, device: torch.device, processes: int) -> int:
    """The bytes of hidden states that each of so many processes of a run may keep; 0: none.

    ``training.cache_mb`` says it for the run, or (auto) leaves it to PART of what is free, of which runs side by side
    have their part. None where dropout changes the states, and where this machine does not say what is free.
    """
    wanted = config.training.cache_mb
    if config.lora.dropout or wanted == 0:
        return 0
    if wanted != "auto":
        return wanted * 2**20 // processes
    if device.type == "cuda":
        return int(PART * torch.cuda.mem_get_info(device)[0]) // processes
    return int(PART * free_bytes() * cores_here() / all_cores()) // processes


def free_bytes() -> int:
    """Memory that can be taken without anything being paged out; 0 where that is not known."""
    lines = _lines(Path("/proc/meminfo"))
    free = next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), 0)
    if not lines and "SC_AVPHYS_PAGES" in os.sysconf_names:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit, used = (_lines(Path("/sys/fs/cgroup") / name) for name in ("memory.max", "memory.current"))
    if limit and used and limit[0].isdecimal():  # that of a container
        free = min(free, max(0, int(limit[0]) - int(used[0])))
    return free


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:  # not Linux, or no container
        return []
