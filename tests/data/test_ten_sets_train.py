"""Each of the ten public data sets trains: two rounds of a tiny model, by name alone."""

import math
import time
from pathlib import Path

import pytest

import fibecfed
from fibecfed.data import DATASETS


@pytest.mark.parametrize("name", list(DATASETS))
def test_a_named_set_trains(name: str, bert: Path, shared_data: Path) -> None:
    config = fibecfed.load_config(
        method="fedavg-lora",
        model={"name": str(bert)},
        data={"name": name, "dir": str(shared_data), "train_examples": 60, "test_examples": 40, "max_length": 32},
        federation={"devices": 4, "sampled": 2, "rounds": 2},
        lora={"rank": 2},
    )
    started = time.perf_counter()
    result = fibecfed.run(config)
    seconds = time.perf_counter() - started
    summary, spec = result.summary, DATASETS[name]
    for metric in ("accuracy", *spec.extra_metrics):
        for protocol in ("global", "personalized"):
            value = summary[metric][protocol]
            assert math.isfinite(value) and (-1 if metric == "matthews" else 0) <= value <= 1
    assert ("matthews" in summary, "f1" in summary) == (name == "cola", name == "mrpc")
    assert summary["dataset"] == name and len(result.metrics) == 2
    assert summary["examples_trained"] == 2 * 2 * 15  # rounds, devices a round, examples of a device
    found = summary["data"]
    assert (found["train_examples"], found["held_out_examples"]) == (60, 40)
    rest = spec.sizes[spec.train or spec.only]
    rest -= 0 if spec.test else round(0.2 * rest)
    assert found["validation_examples"] == round(0.1 * rest)
    assert found["origin"].startswith(f"{name}: parquet files of the data folder; ")
    assert (found["truncated_examples"] > 0) == (found["tokens_cut"] > 0)
    if name == "boolq":
        assert found["truncated_examples"] == 100  # every passage is longer than 32 tokens
    assert seconds < 15  # measured 0.4 to 1.4
