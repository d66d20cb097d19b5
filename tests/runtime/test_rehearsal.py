"""The bytes of a whole run, known before it, against those that the run counts."""

from typing import Any

import pytest
import torch

import fibecfed
from fibecfed import Config
from fibecfed.config import build_config, merge, to_dict
from fibecfed.federation import Address, EncodedSizes, Reply, Request, encode
from fibecfed.runtime import assemble, rehearse

DIGITS = 16  # bytes that the text of a reply's measured numbers may be longer or shorter
FIVE_ROUNDS: dict[str, dict[str, Any]] = {"federation": {"rounds": 5}}
CASES: dict[str, dict[str, Any]] = {
    "fedavg-lora": {},
    "a warm-up of two rounds": {"method": "fibecfed", "warm_up": {"rounds": 2}},
    "a warm-up that may end sooner": {"method": "fibecfed", "warm_up": {"accuracy": 1.0}},
    "the merge at the end": {"method": "fibecfed", "sharing": {"average_local": True}, "warm_up": {"accuracy": 1.0}},
    "a closed-form head": {"model": {"head_init": "ridge"}},
    "layers by sites": {"method": "fibecfed", "sharing": {"count": "sites"}},
    "label counts": {"training": {"loss": "prior_corrected"}},
    "every device at the end": {"method": "fedavg+finetune"},
    "two stages": {"method": "slora"},
    "the median": {"federation": {"aggregation": "median"}},
    "no rounds": {"method": "device-majority"},
    "int8": {"federation": {"compression": "int8"}, "lora": {"rank": 8}},
    "top-k, a warm-up of two rounds": {
        "method": "fibecfed",
        "warm_up": {"rounds": 2},
        "federation": {"compression": "top-k"},
        "lora": {"rank": 8},
    },
}


def of(small: Config, **values: Any) -> Config:
    return build_config(merge(merge(to_dict(small), FIVE_ROUNDS), values))


@pytest.mark.parametrize("case", CASES)
def test_the_bytes_of_a_whole_run_are_those_it_counts(case: str, small: Config) -> None:
    config = of(small, **CASES[case])
    rehearsed = list(rehearse(assemble(config)))
    spent = fibecfed.run(config).summary
    assert sum(done.bytes_down for done in rehearsed) == spent["bytes"]["down"]
    replies = sum(len(done.cohort) for done in rehearsed)
    assert abs(sum(done.bytes_up for done in rehearsed) - spent["bytes"]["up"]) <= DIGITS * replies
    assert {done.stage.name for done in rehearsed} == set(spent["stages"])


def test_layers_that_devices_count_are_taken_for_half(small: Config) -> None:
    config = of(small, method="fibecfed", sharing={"count": "functional"}, warm_up={"rounds": 1})
    last = list(rehearse(assemble(config)))[-1]
    assert len(last.after.info["layers"]) == 1  # of two


def test_pruned_triplets_are_taken_from_all_maps(small: Config) -> None:
    config = of(small, method="adalora", federation={"rounds": 8})
    rehearsed = list(rehearse(assemble(config)))
    spent = fibecfed.run(config).summary["bytes"]
    assert sum(done.bytes_down for done in rehearsed) == pytest.approx(spent["down"], rel=0.05)
    assert rehearsed[-1].bytes_down < rehearsed[0].bytes_down


@pytest.mark.parametrize("said", [{}, {"loss": 0.25}, {"said": 'é "quoted" \\ back'}, {"layers": list(range(30))}])
@pytest.mark.parametrize("shapes", [{}, {"head.weight": (3, 4)}, {"a": (70, 70), "b": (), "layer.ü": (0,)}])
def test_sizes_are_those_of_encoded_messages(said: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> None:
    sizes = EncodedSizes()
    for dtype in (torch.float32, torch.float64):
        tensors = {name: torch.zeros(shape, dtype=dtype) for name, shape in shapes.items()}
        for number in (0, 9, 123456):
            for kind in (Request, Reply):
                message = kind(Address("run", number, "train", number), tensors, said)
                assert sizes(message) == len(encode(message))
