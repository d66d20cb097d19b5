"""What is saved when only the top half of the layers trains: no backward below it, and cached hidden states.

    python benchmarks/savings.py --out results/benchmarks/savings.json

Process CPU time of one local epoch of MiniLM on one device's 48 shipped messages, one thread, median ratio of
interleaved rounds: dense (every layer trains), top half without the cache, top half with a cache that eight epochs
have filled.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fibecfed import load_config
from fibecfed.data import training_batches
from fibecfed.results import git_commit, hardware, versions
from fibecfed.runtime import Experiment, assemble
from fibecfed.training import TrainJob

EXAMPLES, FILLING = 48, 8


def experiment(cache_mb: int) -> Experiment:
    """One device that holds the messages."""
    return assemble(
        load_config(
            method="fedavg-lora",
            data={"partition": {"kind": "iid"}, "train_examples": EXAMPLES},
            federation={"devices": 1, "sampled": 1},
            training={"cache_mb": cache_mb},
        )
    )


def epoch_seconds(of: Experiment, lowest: int, number: int) -> float:
    """CPU seconds of one epoch that trains the layers from ``lowest`` up, and the head."""
    held = of.data.devices.indices(0)
    batches = training_batches(held, of.data.train.lengths[held], 8, seed=0, round=number, device=0, epochs=1)
    trained = {p.name: None for p in of.layout if p.layer is None or p.layer >= lowest}
    job = TrainJob(0, number, of.start.tensors, trained, batches, 1e-3, 0)
    started = time.process_time()
    of.site.executor.result(job)
    return time.process_time() - started


def measure(repeats: int) -> dict[str, Any]:
    """Interleaved repeats after a few untimed epochs of each, which also fill the cache."""
    plain, cached = experiment(0), experiment(512)
    half = plain.layout.layers // 2
    runs = {
        "dense": lambda number: epoch_seconds(plain, 0, number),
        "top half": lambda number: epoch_seconds(plain, half, number),
        "top half, cached": lambda number: epoch_seconds(cached, half, number),
    }
    for number in range(1, 1 + FILLING):
        for run in runs.values():
            run(number)
    seconds = {name: [] for name in runs}
    for number in range(1 + FILLING, 1 + FILLING + repeats):
        for name, run in runs.items():
            seconds[name].append(run(number))
    ratios = {name: statistics.median(np.array(seconds[name]) / np.array(seconds["dense"])) for name in list(runs)[1:]}
    return {"seconds": seconds, "median_ratio": ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result = measure(arguments.repeats) | {
        "versions": versions(),
        "hardware": hardware(),
        "git_commit": git_commit(),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    print(result["median_ratio"])


if __name__ == "__main__":
    main()
