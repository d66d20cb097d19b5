"""What starting takes: from the command to its answer, or to the first round of a run.

    python benchmarks/startup.py --out results/benchmarks/startup.json

Each is a fresh process of `python -m fibecfed`; CPU seconds are those of the process and its children, user and system.
The commands take turns, so that what else the machine does meets all of them. `libraries` imports torch, transformers
and peft and nothing of fibecfed: no run with a transformers model starts sooner.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fibecfed.results import git_commit, hardware, versions

LIBRARIES = "import torch, peft, transformers.models.bert.modeling_bert"
BEGINS = b"A device holds "  # the last line before the first round
COMMANDS = {
    "libraries": ("-c", LIBRARIES),
    "help": ("-m", "fibecfed", "--help"),
    "config": ("-m", "fibecfed", "config"),
    "methods": ("-m", "fibecfed", "methods"),
    "wrong key": ("-m", "fibecfed", "run", "seeed=3"),
    "wrong method": ("-m", "fibecfed", "run", "method=fedavg-lra"),
    "dry run": ("-m", "fibecfed", "run", "--dry-run"),
    "first round": ("-m", "fibecfed", "run"),  # MiniLM on the shipped messages, stopped where round 1 begins
}


def seconds_of(words: Sequence[str], until: bytes | None = None) -> tuple[float, float]:
    """CPU and wall seconds of a Python process, to its end or until it prints a line with ``until`` in it.

    Raises RuntimeError if it ends without that line.
    """
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    with process.stdout:
        met = any(until is not None and until in line for line in process.stdout)
        if met:
            process.kill()
        _, _, used = os.wait4(process.pid, 0)
    if until is not None and not met:
        raise RuntimeError(f"'{' '.join(words)}' ended without '{until.decode()}'")
    return used.ru_utime + used.ru_stime, time.perf_counter() - started


def measured(names: Sequence[str], times: int) -> dict[str, Any]:
    """Each command so many times, in turns; one untimed turn first, which fills the caches of files and bytecode."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(times + 1):
            for name in names:
                out = ("--out", f"{folder}/{turn}") if name == "first round" else ()
                taken = seconds_of((*COMMANDS[name], *out), BEGINS if out else None)
                if turn:
                    found[name].append(taken)
    return {
        name: {
            "median_cpu_seconds": statistics.median(cpu for cpu, _ in taken),
            "median_wall_seconds": statistics.median(wall for _, wall in taken),
            "cpu_seconds": [cpu for cpu, _ in taken],
            "wall_seconds": [wall for _, wall in taken],
        }
        for name, taken in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=list(COMMANDS), default=list(COMMANDS), metavar="NAME")
    arguments = parser.parse_args()
    result = {
        "commands": measured(arguments.only, arguments.times),
        "versions": versions(),
        "hardware": hardware(),
        "git_commit": git_commit(),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    for name, taken in result["commands"].items():
        print(f"{name}: {taken['median_cpu_seconds']:.2f} CPU s, {taken['median_wall_seconds']:.2f} s")


if __name__ == "__main__":
    main()
