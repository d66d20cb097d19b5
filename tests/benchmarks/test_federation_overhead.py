"""The federation costs next to nothing beside training; the benchmark's committed result says the same."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


def benchmark(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def test_a_payload_of_five_megabytes_costs_little_more_than_writing_and_reading_it() -> None:
    overhead = benchmark("federation_overhead")
    pairs = [(overhead.payload_seconds(), overhead.bare_seconds()) for _ in range(3)]
    assert min(seconds for seconds, _ in pairs) <= 2.7 * min(bare for _, bare in pairs)


@pytest.mark.slow
@pytest.mark.long
def test_training_through_the_federation_is_as_fast_as_a_plain_loop() -> None:
    overhead = benchmark("federation_overhead")
    assert overhead.training_overhead(overhead.benchmark_config(rounds=1), pairs=3)["median_ratio"] <= 1.05


def test_the_committed_result_meets_the_limits() -> None:
    result = json.loads((ROOT / "results" / "benchmarks" / "federation_overhead.json").read_text())
    assert len(result["training"]["pairs"]) == 7
    assert result["training"]["median_ratio"] <= 1.05
    assert max(result["payload_cpu_seconds"]) <= 1.0
