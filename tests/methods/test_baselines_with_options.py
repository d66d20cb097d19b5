"""Every baseline runs with what else can be switched on, and resumes from the middle of it."""

from pathlib import Path
from typing import Any

import pytest

import fibecfed
from baselines import changed
from crash import Crash, CrashAt
from fibecfed import Config
from run_content import content

BASELINES = (
    "momd", "moms-adamd", "fedalt", "ffa-lora", "fedsa-lora", "fedprox", "voc", "slw", "shortformer", "slora",
    "delta-lora", "adalora",
)  # fmt: skip
OPTIONS: dict[str, dict[str, Any]] = {
    "solved head, prior, median": {
        "model": {"head_init": "ridge"},
        "training": {"loss": "prior_corrected", "micro_batch_size": 3, "gradient_checkpointing": True},
        "federation": {"aggregation": "median"},
    },
    "decoder, native head, bf16": {
        "model": {"head": "native"},
        "lora": {"dropout": 0.2, "targets": "auto"},
        "training": {"keep_optimizer": True, "weight_decay": 0.01},
        "runtime": {"precision": "bf16"},
    },
}


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("method", BASELINES)
def test_options(small: Config, llama: Path, tmp_path: Path, method: str, options: str) -> None:
    config = changed(small, {"federation": {"rounds": 4}, "evaluation": {"every": 2}}, OPTIONS[options], method=method)
    if "decoder" in options:
        config = changed(config, model={"name": str(llama)})
    result = fibecfed.run(config, tmp_path / "whole")
    assert all(tensor.isfinite().all() for tensor in result.state.tensors.values())
    with pytest.raises(Crash):
        fibecfed.run(config, tmp_path / "cut", callbacks=[CrashAt(3)])
    fibecfed.resume(tmp_path / "cut")
    assert content(tmp_path / "cut") == content(tmp_path / "whole")
    again = fibecfed.evaluate_run(tmp_path / "whole")
    assert again["global"]["accuracy"] == result.metrics[-1]["accuracy_global"]
    assert again["personalized"]["accuracy"] == result.metrics[-1]["accuracy_personalized"]
    assert fibecfed.load(tmp_path / "whole").logits(["where is my kettle"]).shape == (1, 3)
