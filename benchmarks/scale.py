"""What devices cost that are only there: 100 against 1,000,000 of them, with the same few at work in each round.

    python benchmarks/scale.py --out results/benchmarks/scale.json

Runs of a tiny encoder, whole ones with their directory, each in a process of its own; those with few and with many
devices alternate. A device holds 20 of 3,000 generated texts (data.partition.examples_per_device), five train in a
round. Seconds are the processor's. Start-up is from the call to the first round, files and all; the first run of a
process, which imports, does not count. A second part evaluates devices that each have layers of their own on disk, 100
against 10,000.
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

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

import fibecfed
from fibecfed import Callback, Config, load_config
from fibecfed.errors import RunFailed
from fibecfed.federation import DeviceState, DiskStore, StageDone
from fibecfed.results import git_commit, hardware, peak_memory_bytes, versions
from fibecfed.runtime import assemble

WORDS = ["the", "parcel", "never", "arrived", "my", "money", "back", "great", "service", "thank", "you"]
TEXTS, HELD_OUT = 3_000, 500
STATES = 10_000  # devices with layers of their own, at most; each is judged on an example
ROUNDS = 20
LIMITS = {"memory": 1.1, "start": 2.0, "round": 1.1}


def write_encoder(folder: Path) -> None:
    """Two layers, 16 wide, with random weights, and a tokenizer that knows ``WORDS``."""
    torch.manual_seed(0)
    ids = {word: number for number, word in enumerate(["[PAD]", "[UNK]", *WORDS])}
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]"}
    core = Tokenizer(models.WordLevel(ids, special["unk_token"]))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=core, **special).save_pretrained(folder)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(ids), max_position_embeddings=32, **shape)).save_pretrained(folder)


def write_rows(path: Path, rows: int) -> None:
    """Texts of six words each, so that every device does the same work, with three labels."""
    rng = np.random.default_rng(0)
    lines = [f"{' '.join(rng.choice(WORDS, 6))},{'abc'[i % 3]}" for i in range(rows)]
    path.write_text("text,label\n" + "\n".join(lines) + "\n")


def run_config(folder: Path, devices: int, rounds: int) -> Config:
    return load_config(
        method="fedavg-lora",
        model={"name": str(folder / "encoder")},
        data={
            "file": str(folder / "rows.csv"),
            "test_fraction": HELD_OUT / (TEXTS + HELD_OUT),
            "validation_fraction": 0.0,
            "partition": {"examples_per_device": 20},
        },
        federation={"devices": devices, "sampled": 5, "rounds": rounds},
        evaluation={"every": rounds},
        lora={"rank": 2},
    )


class Clock(Callback):
    """When each round ended; the beginning of the first one first."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def started(self, experiment: object, state: object, records: Sequence[object]) -> None:
        self.times.append(time.process_time())

    def stage_done(self, done: StageDone, record: object) -> bool:
        self.times.append(time.process_time())
        return False


def one_run(folder: Path, devices: int) -> dict[str, Any]:
    """Seconds and memory of a run from its call to its directory."""
    write_encoder(folder / "encoder")
    write_rows(folder / "rows.csv", TEXTS + HELD_OUT)
    fibecfed.run(run_config(folder, 20, 1), folder / "first", progress=False)
    clock, begun = Clock(), time.process_time()
    result = fibecfed.run(run_config(folder, devices, ROUNDS), folder / "run", callbacks=[clock], progress=False)
    ended = time.process_time()
    rounds = np.diff(clock.times)[:-1]  # the last one evaluates
    return {
        "devices": devices,
        "start_seconds": clock.times[0] - begun,
        "round_seconds": statistics.median(rounds.tolist()),
        "end_seconds": ended - clock.times[-1],
        "peak_memory_bytes": peak_memory_bytes(),
        "directory_bytes": sum(path.stat().st_size for path in (folder / "run").rglob("*") if path.is_file()),
        "examples_trained": result.summary["examples_trained"],
    }


def one_evaluation(folder: Path, devices: int) -> dict[str, Any]:
    """Seconds and memory of an evaluation of devices that each keep a layer on disk."""
    write_encoder(folder / "encoder")
    write_rows(folder / "rows.csv", 2 * STATES)
    config = load_config(
        method="fibecfed",
        model={"name": str(folder / "encoder")},
        data={"file": str(folder / "rows.csv"), "test_fraction": 0.5, "validation_fraction": 0.0},
        federation={"devices": devices, "sampled": 5},
        sharing={"count": 1},
        lora={"rank": 2},
    )
    store = DiskStore(folder / "devices", "benchmark", RunFailed)
    experiment = assemble(config, store)
    layer = {p.name: experiment.site.initial[p.name] + 0.1 for p in experiment.layout if p.layer == 0}
    os.fsync = lambda file: None  # the disk's time is not measured
    for device in range(devices):
        store.save(device, DeviceState(local=layer), 0)
    state = experiment.start.replace(
        device_versions=dict.fromkeys(range(devices), 1), info={**experiment.start.info, "layers": [1], "warm_up": 1}
    )
    begun = time.process_time()
    evaluation = experiment.evaluate(state)
    seconds = time.process_time() - begun
    assert len(evaluation.devices) == devices, "a device was not evaluated"
    assert evaluation.never_sampled is None, "a device was evaluated without its own layers"
    return {"devices": devices, "evaluation_seconds": seconds, "peak_memory_bytes": peak_memory_bytes()}


MEASURED = {"run": one_run, "evaluation": one_evaluation}


def in_a_process(what: str, devices: int) -> dict[str, Any]:
    """A measurement in a process of its own, since memory once taken stays."""
    command = [sys.executable, __file__, "--one", what, str(devices)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def compared(few: int, many: int, repeats: int) -> dict[str, Any]:
    """Runs with few and with many devices in turn, and how their medians compare."""
    runs: dict[int, list[dict[str, Any]]] = {few: [], many: []}
    for _ in range(repeats):
        for devices in (few, many):
            runs[devices].append(in_a_process("run", devices))
    assert len({run["examples_trained"] for of in runs.values() for run in of}) == 1, "not the same sampled work"

    def ratio(key: str) -> float:
        return statistics.median(r[key] for r in runs[many]) / statistics.median(r[key] for r in runs[few])

    keys = {"memory": "peak_memory_bytes", "start": "start_seconds", "round": "round_seconds"}
    return {"ratios": {name: ratio(key) for name, key in keys.items()}, "few": runs[few], "many": runs[many]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--few", type=int, default=100)
    parser.add_argument("--many", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", nargs=2, metavar=("WHAT", "DEVICES"), help="one measurement, as a line of output")
    arguments = parser.parse_args()
    if arguments.one is not None:
        torch.set_num_threads(1)
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(MEASURED[arguments.one[0]](Path(folder), int(arguments.one[1]))))
        return
    if arguments.out is None:
        parser.error("--out says where the result goes")
    with_states = [in_a_process("evaluation", devices) for devices in (arguments.few, STATES)]
    memory = with_states[1]["peak_memory_bytes"] / with_states[0]["peak_memory_bytes"]
    result = {
        **compared(arguments.few, arguments.many, arguments.repeats),
        "limits": LIMITS,
        "states_on_disk": {"memory_ratio": memory, "few": with_states[0], "many": with_states[1]},
        "versions": versions(),
        "hardware": hardware(),
        "git_commit": git_commit(),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    said = ", ".join(f"{name} {value:.2f} x (limit {LIMITS[name]})" for name, value in result["ratios"].items())
    print(f"{said}; {STATES:,} devices' own layers: memory {memory:.2f} x")


if __name__ == "__main__":
    main()
