"""What worker processes gain and take: rounds of TREC with MiniLM, evaluation included, by one process and by several.

    python benchmarks/workers.py --out results/benchmarks/workers.json

Needs as many idle cores as there are workers. Each run is a process of its own with one thread a worker. Runs with one
process and with several alternate, and so does which comes first; ratios are medians over pairs. The first
``--warm`` rounds are not timed: operations are counted there. Every run must end with the same bits.
"""

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from fibecfed import load_config
from fibecfed.config import Config
from fibecfed.results import git_commit, hardware, peak_memory_bytes, versions
from fibecfed.runtime import assemble


def benchmark_config(workers: int, rounds: int) -> Config:
    """LoRA of MiniLM on TREC, 20 devices, 10 a round, each of which has 273 questions in the mean."""
    return load_config(
        method="fedavg-lora",
        model={"name": "minilm"},
        data={"name": "trec"},
        federation={"devices": 20, "sampled": 10, "rounds": rounds},
        runtime={"workers": workers, "threads": 1},
    )


def measured(config: Config, warm: int) -> dict[str, Any]:
    """One run: rounds a second after the ``warm`` ones, memory of all its processes, and a digest of what it found."""
    experiment = assemble(config)
    executor, digest, times = experiment.site.executor, hashlib.sha256(), [time.perf_counter()]
    for done in experiment.server.run(experiment.start):
        evaluation = experiment.evaluate(done.state)
        times.append(time.perf_counter())
        digest.update(repr((done.loss, evaluation, done.state.costs.operations)).encode())
        for name, tensor in done.state.tensors.items():
            digest.update(name.encode() + tensor.numpy().tobytes())
    taken = times[warm:]
    return {
        "rounds_per_second": (len(taken) - 1) / (taken[-1] - taken[0]),
        "peak_memory_bytes": peak_memory_bytes(executor.processes),
        "sha256": digest.hexdigest(),
    }


def in_a_process(workers: int, rounds: int, warm: int) -> dict[str, Any]:
    """``measured`` in a process of its own, since memory once taken stays."""
    command = [sys.executable, __file__, "--one", str(workers), "--rounds", str(rounds), "--warm", str(warm)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def compared(workers: int, rounds: int, warm: int, pairs: int) -> dict[str, Any]:
    """Pairs of runs and their ratios. Raises AssertionError where bits differ."""
    found = []
    for number in range(pairs):
        order = (1, workers) if number % 2 == 0 else (workers, 1)
        pair = {n: in_a_process(n, rounds, warm) for n in order}
        one, several = pair[1], pair[workers]
        assert one["sha256"] == several["sha256"], "the same run gave other bits"
        ratios = {
            "speed": several["rounds_per_second"] / one["rounds_per_second"],
            "memory": several["peak_memory_bytes"] / one["peak_memory_bytes"],
        }
        found.append({"one": one, "several": several, **ratios})
    return {
        "workers": workers,
        "rounds": rounds,
        "rounds_not_timed": warm,
        "median_speed_ratio": statistics.median(pair["speed"] for pair in found),
        "median_memory_ratio": statistics.median(pair["memory"] for pair in found),
        "pairs": found,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--warm", type=int, default=1, help="rounds at the beginning that are not timed")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--one", type=int, help="only this number of workers, as a line on standard output")
    arguments = parser.parse_args()
    if arguments.warm >= arguments.rounds:
        parser.error("--warm has to leave a round to be timed")
    if arguments.one is not None:
        torch.set_num_threads(1)
        print(json.dumps(measured(benchmark_config(arguments.one, arguments.rounds), arguments.warm)))
        return
    if arguments.out is None:
        parser.error("--out says where the result goes")
    result = {
        **compared(arguments.workers, arguments.rounds, arguments.warm, arguments.pairs),
        "versions": versions(),
        "hardware": hardware(),
        "git_commit": git_commit(),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    print(f"speed {result['median_speed_ratio']:.2f} x, memory {result['median_memory_ratio']:.2f} x, same bits")


if __name__ == "__main__":
    main()
