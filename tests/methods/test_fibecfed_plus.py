"""fibecfed-plus: every part is on by default, changes something, and is a setting that can be put back."""

from typing import Any

import numpy as np
import pytest
import torch

import fibecfed
from baselines import changed, watched
from fibecfed import Config
from fibecfed.curriculum.clean_part import Suspicion
from fibecfed.methods import resolve

SKEWED: dict[str, Any] = {
    "method": "fibecfed-plus",
    "data": {"partition": {"alpha": 0.2}},
    "federation": {"rounds": 4, "sampled": 4},
    "training": {"batch_size": 4},
    "warm_up": {"rounds": 1},
}
BACK: dict[str, dict[str, Any]] = {
    "score": {"curriculum": {"score": "none", "cap": 1.0}},
    "cap": {"curriculum": {"cap": 0.5}},
    "start": {"curriculum": {"start": 0.5}},
    "initialization": {"curriculum": {"initialization": "training"}},
    "layers": {"sharing": {"layers": "last", "count": 1}},
    "loss": {"training": {"loss": "cross_entropy"}},
    "head": {"model": {"head_init": "random"}},
    "warm-up": {"warm_up": {"rounds": 2}},
}


def fingerprint(config: Config) -> dict[str, Any]:
    run = watched(config)
    return {
        "model": {name: tensor.sum().item() for name, tensor in run.state.tensors.items()},
        "summary": [run.result.summary[key] for key in ("bytes", "examples_trained", "examples_scored")],
    }


def test_every_part_changes_a_run(small: Config) -> None:
    as_it_is = fingerprint(changed(small, SKEWED))
    assert not [part for part in BACK if fingerprint(changed(small, SKEWED, **BACK[part])) == as_it_is]


def test_own_heads_change_personalized_numbers_alone(small: Config) -> None:
    with_heads, without = (
        watched(changed(small, SKEWED, data={"train_examples": None}, personal={"head": head}))
        for head in ("fitted", "none")
    )
    assert all(torch.equal(t, without.state.tensors[n]) for n, t in with_heads.state.tensors.items())


def test_where_nothing_is_wrong_it_trains_as_fedavg_plus(small: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fibecfed.methods.fibecfed_parts.confidence.LEAST_WRONG", 2.0)
    plus, control = (watched(changed(small, SKEWED, method=name)) for name in ("fibecfed-plus", "fedavg-plus"))
    assert all(torch.equal(t, control.state.tensors[n]) for n, t in plus.state.tensors.items())


def test_what_is_doubtful_is_never_trained(small: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fibecfed.methods.fibecfed_parts.confidence.LEAST_WRONG", -1.0)
    half = lambda chances, *_: Suspicion(1, 2, np.zeros(len(chances), bool))  # noqa: E731
    monkeypatch.setattr("fibecfed.methods.fibecfed_parts.confidence.suspicion", half)
    run = watched(changed(small, SKEWED))
    everything = fibecfed.run(changed(small, SKEWED, method="fedavg-plus")).summary["examples_trained"]
    assert 0.4 < run.result.summary["examples_trained"] / everything < 0.8  # all of them in the warm-up, then half


def test_the_parts_are_those_of_the_controls() -> None:
    plus, control = (resolve(fibecfed.load_config(method=name)) for name in ("fibecfed-plus", "fedavg-plus"))
    for key in ("training.loss", "personal.head", "model.head_init"):
        section, name = key.split(".")
        assert getattr(getattr(plus, section), name) == getattr(getattr(control, section), name)
