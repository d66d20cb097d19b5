"""What the federation costs beside training: fedavg-lora against a plain PyTorch loop over the same batches.

    python benchmarks/federation_overhead.py --out results/benchmarks/federation_overhead.json

Process CPU time, one thread, evaluation excluded, median ratio of interleaved pairs. A second part sends a
4.8 MB payload to 10 devices in 5 rounds with no training at all.
"""

import argparse
import json
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load, save

from fibecfed import load_config
from fibecfed.config import Config
from fibecfed.data import training_batches
from fibecfed.federation import Device, DeviceSide, MemoryStore, Reply, Request, Server, Site, Work, cohort
from fibecfed.methods import FederatedAveraging
from fibecfed.methods.stages import Train
from fibecfed.results import git_commit, hardware, versions
from fibecfed.runtime import Experiment, InProcessTransport, assemble
from fibecfed.tuning import Layout, Parameter, put_tensors

PAYLOAD = 1_200_000  # float32 entries: 4.8 MB


def rounds_of(config: Config) -> range:
    return range(1, config.federation.rounds + 1)


def federated_seconds(experiment: Experiment) -> float:
    """CPU seconds of all rounds through the server, the codec and the executor."""
    started = time.process_time()
    state = experiment.start
    for done in experiment.server.run(state):
        state = done.state
    return time.process_time() - started


def plain_seconds(experiment: Experiment) -> float:
    """CPU seconds of the same batches in the loop anyone would write: one model, one AdamW."""
    config, data, model = experiment.config, experiment.data, experiment.model
    put_tensors(model, experiment.start.tensors)
    names = set(experiment.layout.names)
    parameters = [p.requires_grad_() for n, p in model.named_parameters() if n in names]
    lengths = data.train.lengths
    started = time.process_time()
    optimizer = torch.optim.AdamW(parameters, lr=config.training.learning_rate, weight_decay=0.0)
    for number in rounds_of(config):
        for device in cohort(config.seed, number, config.federation.sampled, data.devices.devices):
            mine = data.devices.indices(device)
            for chosen in training_batches(
                mine, lengths[mine], config.training.batch_size, seed=config.seed, round=number, device=device, epochs=1
            ):
                batch = data.train.batch(chosen)
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(model(batch), batch.targets).backward()
                torch.nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
    return time.process_time() - started


def training_overhead(config: Config, pairs: int) -> dict[str, Any]:
    """Interleaved pairs on one experiment, the order within a pair alternating; one untimed pair first."""
    experiment = assemble(config)
    federated_seconds(experiment), plain_seconds(experiment)
    measured = []
    for number in range(pairs):
        if number % 2:
            plain, federated = plain_seconds(experiment), federated_seconds(experiment)
        else:
            federated, plain = federated_seconds(experiment), plain_seconds(experiment)
        measured.append({"federated": federated, "plain": plain, "ratio": federated / plain})
    return {"median_ratio": statistics.median(m["ratio"] for m in measured), "pairs": measured}


class EchoRound(Train):
    """A round in which devices send back what they got."""

    def work(self, device: Device, request: Request) -> Work:
        yield from ()
        return Reply(request.address, request.tensors, {"examples": 1})


class Echo(FederatedAveraging):
    """FedAvg that trains nothing."""

    round_stage = EchoRound


def payload_seconds(devices: int = 10, rounds: int = 5) -> float:
    """CPU seconds of exchanging 4.8 MB with every device in every round."""
    config = load_config(method="fedavg-lora", federation={"devices": devices, "sampled": devices, "rounds": rounds})
    tensors: Mapping[str, torch.Tensor] = {f"w{i}": torch.randn(PAYLOAD // 12) for i in range(12)}
    layout = Layout(tuple(Parameter(n, tuple(t.shape), None, "head") for n, t in tensors.items()), 0)
    method = Echo(config, layout)
    executor: Any = SimpleNamespace(width=1)
    site = Site(config, None, executor, MemoryStore(), tensors)  # type: ignore[arg-type]
    server = Server(config, method, InProcessTransport(DeviceSide(method, site)), devices, "benchmark")
    started = time.process_time()
    (*_, last) = server.run(method.init(tensors))
    seconds = time.process_time() - started
    assert last.state.costs.bytes_up > 4 * PAYLOAD * devices * rounds
    return seconds


def bare_seconds(exchanges: int = 50) -> float:
    """CPU seconds of what any exchange of that payload takes: written, read and widened to float64, each way."""
    tensors = {f"w{i}": torch.randn(PAYLOAD // 12) for i in range(12)}
    started = time.process_time()
    for _ in range(2 * exchanges):
        _ = {name: tensor.double() for name, tensor in load(save(tensors)).items()}
    return time.process_time() - started


def benchmark_config(rounds: int = 2) -> Config:
    """MiniLM on the shipped messages, ten devices of 51 examples each, all of them in each round."""
    return load_config(
        method="fedavg-lora",
        federation={"devices": 20, "sampled": 10, "rounds": rounds},
        runtime={"workers": 1},  # the CPU time that is compared is this process's
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result = {
        "payload_cpu_seconds": [payload_seconds() for _ in range(3)],
        "bare_cpu_seconds": [bare_seconds() for _ in range(3)],
        "training": training_overhead(benchmark_config(), arguments.pairs),
        "versions": versions(),
        "hardware": hardware(),
        "git_commit": git_commit(),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    print(f"median ratio {result['training']['median_ratio']:.3f}; payload {result['payload_cpu_seconds']}")


if __name__ == "__main__":
    main()
