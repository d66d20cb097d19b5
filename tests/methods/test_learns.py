"""Every method learns on TREC: far above the majority class within one small budget."""

from pathlib import Path

import pytest

import fibecfed
from fibecfed import load_config
from fibecfed.methods import METHODS

MAJORITY = 0.276  # of the test set: 138 of 500 ask for a description
CLEARLY = 0.1  # three standard errors of an accuracy on 200 examples
RATES: dict[str, float] = {}  # where 3e-3 does not suit the method
# It says each device's own most frequent label, and has nothing to learn.
WITHOUT_A_MODEL = ("device-majority",)


@pytest.mark.slow
@pytest.mark.parametrize("method", [m for m in METHODS if m not in WITHOUT_A_MODEL])
def test_it_beats_the_majority_class(method: str, shared_data: Path) -> None:
    config = load_config(
        method=method,
        data={
            "name": "trec", "dir": str(shared_data), "train_examples": 120, "test_examples": 200, "max_length": 32,
            "partition": {"kind": "iid"},
        },
        federation={"devices": 4, "sampled": 4, "rounds": 4},
        training={"learning_rate": RATES.get(method, 3e-3)},
        evaluation={"every": 4},
    )  # fmt: skip
    accuracy = fibecfed.run(config).summary["accuracy"]
    assert accuracy["global"] > MAJORITY + CLEARLY
    assert accuracy["personalized"] > MAJORITY + CLEARLY
