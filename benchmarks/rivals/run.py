"""The same federated fine-tuning by fibecfed, by other frameworks and by a plain loop: what each takes.

    python benchmarks/rivals/run.py --environments DIR --out results/benchmarks/rivals.json

README.md beside this file says what is equal. Each row runs in an environment of its own, which is made in DIR at
first. Rows take turns, and each turn begins with another row, so that what else the machine does meets all of them.
A row is written to --out as soon as it ends: the same command goes on where it was stopped.
"""

import argparse
import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from environments import HERE, environment, versions
from measuring import measured
from tables import lines_of_code, markdown, summary

from fibecfed.federation import write_atomically
from fibecfed.results import git_commit, hardware

SHARED = "shared/local_training.py"
OUT = "OUT"  # in a command: the folder of a run


@dataclass(frozen=True)
class Row:
    """What is run in the rival's folder by the Python of its environment, and the files that its user writes."""

    rival: str
    command: tuple[str, ...]
    files: tuple[str, ...]


_TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
_FIBECFED = ("-m", "fibecfed", "run", "task.yaml", "--out", f"{OUT}/run")
ROWS = {
    "fibecfed, one process": Row("fibecfed", (*_FIBECFED, "runtime.workers=1"), ("fibecfed/task.yaml",)),
    "plain PEFT loop": Row("plain_peft", ("loop.py",), (SHARED, "plain_peft/loop.py")),
    "pfl-research, one process": Row("pfl_research", ("simulate.py",), (SHARED, "pfl_research/simulate.py")),
    "fibecfed, a process a core": Row("fibecfed", _FIBECFED, ("fibecfed/task.yaml",)),
    "pfl-research, two processes": Row(
        "pfl_research", (*_TORCHRUN, "simulate.py"), (SHARED, "pfl_research/simulate.py")
    ),
    "Flower, a process a core": Row("flower", ("simulate.py",), (SHARED, "flower/simulate.py")),
    "NVFlare, a process a site": Row(
        "nvflare",
        ("simulate.py", f"{OUT}/simulator"),  # that folder it empties
        (SHARED, "nvflare/client.py", "nvflare/fedavg_of_cohorts.py", "nvflare/simulate.py"),
    ),
}
REFERENCE = "fibecfed, one process"


def surroundings(task: Path, out: Path) -> dict[str, str]:
    """The environment of every row: one thread a process, nothing fetched, nothing told to anybody."""
    return os.environ | {
        "PYTHONPATH": str(HERE / "shared"),
        "RIVALS_TASK": str(task),
        "RIVALS_RESULT": str(out / "result.json"),
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "FLWR_TELEMETRY_ENABLED": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",  # Ray's own is 15
    }


def run_row(name: str, python: Path, task: Path, out: Path) -> dict[str, Any]:
    """One run of a row: what it took, and what it came to."""
    row = ROWS[name]
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    command = [str(python), *(word.replace(OUT, str(out)) for word in row.command)]
    taken = measured(command, HERE / row.rival, surroundings(task, out), out / "log.txt")
    if row.rival != "fibecfed":
        return dataclasses.asdict(taken) | json.loads((out / "result.json").read_text())
    last = json.loads((out / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    score = {"accuracy": last["accuracy_global"], "loss": last["loss_global"]}
    return dataclasses.asdict(taken) | score | {"bytes": last["bytes_up"] + last["bytes_down"]}


def bytes_sent(rival: str, python: Path, task: Path) -> int:
    """What a rival's messages of a run hold, down and up: as it encodes them, or float32 where it encodes nothing."""
    script = HERE / rival / "message_bytes.py"
    script = script if script.is_file() else HERE / "shared" / "message_bytes.py"
    told = subprocess.run(
        [str(python), str(script)], env=surroundings(task, task), capture_output=True, text=True, check=True
    )
    visits = sum(len(cohort) for cohort in json.loads((task / "task.json").read_text())["cohorts"])
    return 2 * visits * int(told.stdout.split()[-1])


def digest(folder: Path) -> str:
    """Of the task's files."""
    found = hashlib.sha256()
    for name in ("task.json", "initial.safetensors"):
        found.update((folder / name).read_bytes())
    return found.hexdigest()


def begun(out: Path, about: dict[str, Any]) -> list[dict[str, Any]]:
    """The runs that --out holds already. Raises SystemExit if they are of something else."""
    if not out.is_file():
        return []
    held = json.loads(out.read_text())
    other = [key for key, value in about.items() if held.get(key) != value]
    if other:
        raise SystemExit(f"{out} was begun with another {' and '.join(other)}; give another --out, or remove it.")
    runs: list[dict[str, Any]] = held["runs"]
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environments", type=Path, required=True, metavar="DIR", help="where environments lie")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write; the table goes beside it, as .md")
    parser.add_argument("--times", type=int, default=5, help="turns of all rows (default: 5)")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS), metavar="ROW", help="only these")
    options = parser.parse_args()
    folder = options.environments.resolve()
    pythons = {ROWS[name].rival: environment(ROWS[name].rival, folder) for name in options.rows}
    pythons.setdefault("fibecfed", environment("fibecfed", folder))
    task = folder / "task"
    subprocess.run([str(pythons["fibecfed"]), str(HERE / "task.py"), str(task)], check=True)
    lines = {name: 1 + sum(lines_of_code(HERE / file) for file in row.files) for name, row in ROWS.items()}
    about = {
        "task_sha256": digest(task),
        "lines": lines,
        "versions": {rival: versions(python) for rival, python in sorted(pythons.items())},
        "hardware": hardware(),
        "git_commit": git_commit(),
    }
    runs = begun(options.out, about)
    sent = {ROWS[run["row"]].rival: run["bytes"] for run in runs}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for turn in range(options.times):
        first = turn % len(options.rows)
        for name in (*options.rows[first:], *options.rows[:first]):
            if any(run["row"] == name and run["turn"] == turn for run in runs):
                continue
            rival = ROWS[name].rival
            run = run_row(name, pythons[rival], task, folder / "run")
            if "bytes" not in run:
                run["bytes"] = sent[rival] = sent.get(rival) or bytes_sent(rival, pythons[rival], task)
            runs.append({"row": name, "turn": turn, **run})
            rows = sorted(summary(runs, REFERENCE), key=lambda row: options.rows.index(row["row"]))
            write_atomically(
                options.out, json.dumps({"summary": rows, "runs": runs, **about}, indent=2).encode() + b"\n"
            )
            options.out.with_suffix(".md").write_text(markdown(rows, lines))
            print(f"turn {turn + 1}, {name}: {run['wall_seconds']:.0f} s, accuracy {run['accuracy']:.4f}", flush=True)
    print(options.out.with_suffix(".md").read_text(), end="")


if __name__ == "__main__":
    main()
