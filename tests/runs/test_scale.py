"""A thousand times the devices cost no more memory or time, whether they keep something or not."""

import json
import time
import weakref
from collections import Counter
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

import forking
from fibecfed import Config, load_config
from fibecfed.federation import DeviceState, MemoryStore, ServerState
from fibecfed.runtime import Experiment, assemble

ROWS = 40_400
HELD_OUT = 400  # of them, one a device at most
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
    arguments = ["-c", MEASURE, str(devices), str(bert), str(rows), str(tmp_path)]
    done = forking.run(arguments, timeout=280)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.split("MEASURED")[1])


@pytest.mark.long
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


class Kept(MemoryStore):
    """Counts the states that devices keep."""

    def __init__(self) -> None:
        super().__init__()
        self.devices: set[int] = set()

    def save(self, device: int, state: DeviceState, version: int) -> int:
        self.devices.add(device)
        return super().save(device, state, version)


class EveryDevice(MemoryStore):
    """As if every device had been there: each keeps the same local layers."""

    local: Mapping[str, Tensor]

    def load(self, device: int, version: int) -> DeviceState | None:
        return DeviceState(local=self.local) if version else None


class Model(dict[str, Tensor]):
    """A model that can be watched."""


def partly_local(devices: int, bert: Path, rows: Path, folder: Path) -> Config:
    """fibecfed, one example a device: a warm-up round, initialization by five devices, two rounds of five."""
    few = folder / "few.csv"
    with rows.open() as lines:
        few.write_text("".join(islice(lines, 1 + devices + HELD_OUT)))
    return load_config(
        method="fibecfed",
        model={"name": str(bert)},
        data={"file": str(few), "test_fraction": HELD_OUT / (devices + HELD_OUT), "validation_fraction": 0.0},
        federation={"devices": devices, "sampled": 5, "rounds": 3},
        warm_up={"rounds": 1},
        sharing={"devices": 5, "count": 1},
        evaluation={"every": 3},
        lora={"rank": 2},
    )


def watch(experiment: Experiment) -> tuple[Counter[str], list[int]]:
    """Jobs by kind and examples that were evaluated; how many personal models there were each time one was made."""
    seen: Counter[str] = Counter()
    models: list[weakref.ref[Model]] = []
    living: list[int] = []
    executor, method = experiment.site.executor, experiment.method
    result, counts, personal = executor.result, executor.counts, method.personal

    def watched_result(job: Any) -> Any:
        seen[type(job).__name__] += 1
        return result(job)

    def watched_counts(tensors: Any, data: Any, indices: np.ndarray) -> Any:
        seen["evaluated"] += len(indices)
        return counts(tensors, data, indices)

    def watched_personal(device: Any, state: ServerState) -> Model:
        model = Model(personal(device, state))
        models.append(weakref.ref(model))
        living.append(sum(made() is not None for made in models))
        return model

    executor.result = watched_result  # type: ignore[method-assign]
    executor.counts = watched_counts  # type: ignore[method-assign]
    method.personal = watched_personal  # type: ignore[method-assign]
    return seen, living


def test_initialization_and_evaluation_cost_what_the_sampled_devices_cost(
    bert: Path, many_rows: Path, tmp_path: Path
) -> None:
    store = Kept()
    experiment = assemble(partly_local(20_000, bert, many_rows, tmp_path), store)
    seen, living = watch(experiment)
    state = list(experiment.server.run(experiment.start))[-1].state
    assert seen["TrainJob"] == 5 * 3
    assert 5 <= seen["ScoreJob"] <= 5 * 3  # who gives layer scores, and who comes later
    assert 5 <= len(store.devices) <= 5 * 3
    assert set(experiment.method.personal_devices(state)) == store.devices
    seen.clear()
    start = time.process_time()
    experiment.evaluate(state)
    assert time.process_time() - start < 2.0  # it takes a tenth of a second
    assert HELD_OUT <= seen["evaluated"] <= HELD_OUT + len(store.devices)  # one test example a device at most
    assert len(living) <= len(store.devices)


def test_ten_thousand_models_are_evaluated_without_being_held(bert: Path, many_rows: Path, tmp_path: Path) -> None:
    store = EveryDevice()
    experiment = assemble(partly_local(10_000, bert, many_rows, tmp_path), store)
    store.local = {name: t + 0.1 for name, t in experiment.site.initial.items() if ".layer.0." in name}
    assert store.local
    seen, living = watch(experiment)
    state = experiment.start.replace(
        device_versions=dict.fromkeys(range(10_000), 1),
        info={**experiment.start.info, "layers": [1], "warm_up": 1},
    )
    evaluation = experiment.evaluate(state)
    assert evaluation.never_sampled is None
    assert seen["evaluated"] == 2 * HELD_OUT  # by the server's model and by the devices' own
    assert len(living) == HELD_OUT
    assert max(living) <= 3
