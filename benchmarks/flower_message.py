"""What a message costs over Flower, beside the work it asks for: CPU and waiting, with MiniLM.

    python benchmarks/flower_message.py --out results/benchmarks/flower_message.json

Starts a server and one device on this machine (plain text), runs a few rounds, and reads from /proc what the processes
of Flower on the device's side used between the first and the last message; the device's own process, which trains, is
not counted. Beside it: what loading MiniLM in a fresh process takes, which each message would pay if Flower's
short-lived process did the work. Linux only.
"""

import argparse
import csv
import json
import os
import re
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from fibecfed import load_config
from fibecfed.config import to_yaml
from fibecfed.data import load_splits
from fibecfed.flower.processes import free_port
from fibecfed.results import git_commit, hardware, versions

LOAD = """
from fibecfed import load_config
from fibecfed.methods import resolve
from fibecfed.runtime import learner_of
learner_of(resolve(load_config()), 6)
"""
TICKS = os.sysconf("SC_CLK_TCK")


def loading_seconds() -> float:
    """CPU seconds of a process that imports everything and loads MiniLM with its adapter."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", LOAD], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def children(pid: int) -> list[int]:
    """The processes below one, all the way down."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if int(fields[1]) == pid:
            found += [int(path.parent.name), *children(int(path.parent.name))]
    return found


def cpu_seconds(pid: int) -> float:
    """Used by all processes below one, those that have ended included."""
    total = 0
    for child in children(pid):
        try:
            fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended since, and its parent has its time
            continue
        total += sum(map(int, fields[11:15]))
    return total / TICKS


def start(log: Path, *words: str) -> "subprocess.Popen[bytes]":
    with log.open("w") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "fibecfed", "flower", *words], stdout=file, stderr=file, start_new_session=True
        )


def wait_for(log: Path, words: str, process: "subprocess.Popen[bytes]") -> None:
    ends = time.monotonic() + 120
    while words not in log.read_text():
        if process.poll() is not None or time.monotonic() > ends:
            raise SystemExit(f"'{words}' was not said:\n{log.read_text()[-3000:]}")
        time.sleep(0.1)


def messages(log: Path) -> int:
    """Replies that Flower has sent for the device."""
    return len(re.findall(r"Sending: \S+ message", log.read_text()))


def measure(folder: Path, rounds: int) -> dict[str, Any]:
    """A run with one device; CPU of Flower's processes on its side and seconds, for each message after the first."""
    rows = load_splits(load_config()).train
    names = list(rows.label_names)
    with (folder / "text.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("text", "label"))
        table.writerows((rows.texts[i], names[rows.labels[i]]) for i in range(32))
    (folder / "device.yaml").write_text(yaml.safe_dump({"device": 0, "data": {"file": "text.csv"}}))
    config = load_config(
        method="fedavg-lora",
        data={"labels": names},
        federation={"devices": 1, "sampled": 1, "rounds": rounds},
        training={"local_steps": 1},
    )
    (folder / "run.yaml").write_text(to_yaml(config))
    port, log, started = free_port(), folder / "device.log", []
    try:
        words = ("server", "--insecure", "--server", str(folder / "server"), "--host", "127.0.0.1", "--port", str(port))
        started.append(start(folder / "server.log", *words))
        wait_for(folder / "server.log", "Listening", started[0])
        device = start(log, "device", str(folder / "device.yaml"), "--insecure", "--server", f"127.0.0.1:{port}")
        started.append(device)
        wait_for(log, "SuperNode ID", device)
        words = ("run", str(folder / "run.yaml"), "--out", str(folder / "run"), "--server", str(folder / "server"))
        started.append(start(folder / "run.log", *words))
        wait_for(log, "Sending: query.join", device)
        first, cpu, clock = messages(log), cpu_seconds(device.pid), time.monotonic()
        if started[-1].wait(600):
            raise SystemExit((folder / "run.log").read_text()[-3000:])
        done = messages(log) - first
        return {
            "messages": done,
            "cpu_seconds": (cpu_seconds(device.pid) - cpu) / done,
            "seconds": (time.monotonic() - clock) / done,
        }
    finally:
        for process in started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=8)
    arguments = parser.parse_args()
    loading = [loading_seconds() for _ in range(3)]
    with tempfile.TemporaryDirectory() as folder:
        message = measure(Path(folder), arguments.rounds)
    result = {
        "message": message,
        "loading_cpu_seconds": loading,
        "ratio": statistics.median(loading) / message["cpu_seconds"],
        "versions": versions(),
        "hardware": hardware(),
        "git_commit": git_commit(),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    print(f"{message['cpu_seconds']:.2f} CPU s and {message['seconds']:.1f} s a message; loading {loading}")


if __name__ == "__main__":
    main()
