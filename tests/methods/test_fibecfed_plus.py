"""fibecfed-plus: every part is on by default, changes something, and is a setting that can be put back."""

from typing import Any

import torch

import fibecfed
from baselines import changed, watched
from fibecfed import Config
from fibecfed.methods import resolve

SKEWED: dict[str, Any] = {
    "method": "fibecfed-plus",
    "data": {"partition": {"alpha": 0.2}},
    "federation": {"rounds": 4, "sampled": 4},
    "training": {"batch_size": 2},
    "warm_up": {"rounds": 1},
    "sharing": {"least": 0.01},
}
BACK: dict[str, dict[str, Any]] = {
    "curriculum": {"curriculum": {"score": "none"}},
    "cap": {"curriculum": {"cap": 0.5}},
    "steps": {"curriculum": {"steps": "pace"}},
    "initialization": {"curriculum": {"initialization": "pass"}},
    "layers": {"sharing": {"layers": "all"}},
    "count": {"sharing": {"count": 1, "least": 0.5}},
    "loss": {"training": {"loss": "cross_entropy"}},
    "head": {"model": {"head_init": "random"}, "curriculum": {"cap": 1.0}},
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


def test_initialization_costs_no_pass(small: Config) -> None:
    """What is scored is the features of the closed-form head and, at delivery, those of the fitted ones."""
    config = changed(small, SKEWED, personal={"head": "none"})
    examples = sum(fibecfed.runtime.assemble(config).devices.holdings().train_sizes.values())
    assert fibecfed.run(config).summary["examples_scored"] == examples


def test_the_parts_are_those_of_the_controls() -> None:
    plus, control = (resolve(fibecfed.load_config(method=name)) for name in ("fibecfed-plus", "fedavg-plus"))
    for key in ("training.loss", "personal.head"):
        section, name = key.split(".")
        assert getattr(getattr(plus, section), name) == getattr(getattr(control, section), name)
