"""A thousand times the devices on the same data cost no more memory or time."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROWS = 40_400  # 400 of them held out
MEASURE = """
import json, sys, time
import fibecfed
from fibecfed.results import peak_memory_bytes
from fibecfed.runtime import assemble
devices, model, file, out = int(sys.argv[1]), *sys.argv[2:]
few = {"data": {"train_examples": 100}, "federation": {"devices": 20}}
settings = dict(
    method="fedavg-lora",
    model={"name": model},
    data={"file": file, "test_fraction": 400 / 40_400, "validation_fraction": 0.0, "max_length": 16},
    federation={"devices": devices, "sampled": 5, "rounds": 30}, evaluation={"every": 30},
    training={"batch_size": 1, "local_steps": 2}, lora={"rank": 2},
)
assemble(fibecfed.config.build_config(fibecfed.config.merge(settings, few)))  # imports, caches
config = fibecfed.load_config(**settings)
start = time.process_time()
experiment = assemble(config)
ready = time.process_time()
state = experiment.start
for done in experiment.server.run(state):
    state = done.state
trained = time.process_time()
experiment.evaluate(state)
print("MEASURED", json.dumps({"start": ready - start, "rounds": trained - ready, "memory": peak_memory_bytes(),
    "examples": state.costs.examples_trained}))
"""


@pytest.fixture(scope="module")
def many_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    words = ["the", "parcel", "never", "arrived", "my", "money", "back", "great", "service", "thank", "you"]
    path = tmp_path_factory.mktemp("rows") / "many.csv"
    lines = [f"{' '.join(rng.choice(words, 6))},{'abc'[i % 3]}" for i in range(ROWS)]
    path.write_text("text,label\n" + "\n".join(lines) + "\n")
    return path


def measure(devices: int, bert: Path, rows: Path, tmp_path: Path) -> dict[str, float]:
    arguments = [sys.executable, "-c", MEASURE, str(devices), str(bert), str(rows), str(tmp_path)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.split("MEASURED")[1])


@pytest.mark.slow
def test_twenty_thousand_devices_cost_what_twenty_cost(bert: Path, many_rows: Path, tmp_path: Path) -> None:
    few, many = [], []
    for _ in range(2):  # interleaved: the machine may be shared
        few.append(measure(20, bert, many_rows, tmp_path))
        many.append(measure(20_000, bert, many_rows, tmp_path))
    median = {key: (np.median([m[key] for m in many]), np.median([m[key] for m in few])) for key in few[0]}
    assert median["examples"] == (300, 300)  # the same sampled work
    for key, most in (("memory", 1.10), ("start", 1.20), ("rounds", 1.20)):
        large, small = median[key]
        assert large <= most * small, (key, large, small)
