"""What cohorts gain: rounds of TREC with MiniLM, devices trained one after another and together (training.cohort).

    python benchmarks/cohort.py --device cuda --out cohort.json

Rounds are timed without evaluation, which a cohort does not change. Each run is a process of its own with one thread.
Runs of both kinds alternate, and so does which comes first; ratios are medians over pairs. The first ``--warm`` rounds
are not timed: operations are counted there. Losses of both kinds must agree to 1e-5 in the first round, before what
rounding does to an optimizer adds up.
"""

import argparse
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
from fibecfed.results import git_commit, hardware, versions
from fibecfed.runtime import assemble

AGREE = 1e-5  # nats


def benchmark_config(cohort: int, arguments: argparse.Namespace) -> Config:
    """LoRA on 1,500 questions of TREC, 20 devices, 16 a round: two cohorts of 8."""
    return load_config(
        method="fedavg-lora",
        model={"name": arguments.model},
        data={"name": "trec", "train_examples": 1500},
        federation={"devices": 20, "sampled": 16, "rounds": arguments.rounds},
        training={"cohort": cohort},
        runtime={"workers": 1, "threads": 1, "device": arguments.device},
    )


def measured(config: Config, warm: int) -> dict[str, Any]:
    """One run: rounds a second after the ``warm`` ones, and the mean training loss of each round."""
    experiment = assemble(config)
    losses, times = [], [time.perf_counter()]
    for done in experiment.server.run(experiment.start):
        losses.append(done.loss)
        times.append(time.perf_counter())
    taken = times[warm:]
    found: dict[str, Any] = {"rounds_per_second": (len(taken) - 1) / (taken[-1] - taken[0]), "losses": losses}
    if config.runtime.device == "cuda":
        found["peak_device_memory_bytes"] = torch.cuda.max_memory_allocated()
    return found


def in_a_process(cohort: int, given: list[str]) -> dict[str, Any]:
    """``measured`` in a process of its own."""
    command = [sys.executable, __file__, *given, "--one", str(cohort)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def compared(cohort: int, pairs: int, given: list[str]) -> dict[str, Any]:
    """Pairs of runs and their ratios. Raises AssertionError where losses differ."""
    found = []
    for number in range(pairs):
        order = (1, cohort) if number % 2 == 0 else (cohort, 1)
        pair = {n: in_a_process(n, given) for n in order}
        one, several = pair[1], pair[cohort]
        assert abs(one["losses"][0] - several["losses"][0]) <= AGREE, "cohorts gave other losses"
        found.append(
            {"one": one, "together": several, "speed": several["rounds_per_second"] / one["rounds_per_second"]}
        )
    return {"cohort": cohort, "median_speed_ratio": statistics.median(pair["speed"] for pair in found), "pairs": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--cohort", type=int, default=8)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--model", default="minilm", help="a name or a folder, as model.name")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--warm", type=int, default=1, help="rounds at the beginning that are not timed")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--one", type=int, help="only this training.cohort, as a line on standard output")
    arguments = parser.parse_args()
    if not 0 < arguments.warm < arguments.rounds:
        parser.error("--warm has to be at least 1 and to leave a round to be timed")
    if arguments.one is not None:
        torch.set_num_threads(1)
        print(json.dumps(measured(benchmark_config(arguments.one, arguments), arguments.warm)))
        return
    if arguments.out is None:
        parser.error("--out says where the result goes")
    result = {
        **{name: getattr(arguments, name) for name in ("device", "model", "rounds")},
        "rounds_not_timed": arguments.warm,
        **compared(arguments.cohort, arguments.pairs, sys.argv[1:]),
        "versions": versions(),
        "hardware": hardware(),
        "git_commit": git_commit(),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    print(f"speed {result['median_speed_ratio']:.2f} x, the same losses")


if __name__ == "__main__":
    main()
