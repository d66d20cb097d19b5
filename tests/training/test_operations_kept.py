"""Operations are counted once for all models of one structure in a process, and for every other one anew."""

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import tiny
from fibecfed.training import operations
from fibecfed.training.operations import OperationCounter
from fibecfed.tuning import TUNINGS

SIZES = [(4, 12), (3, 20)]


def counted(built: tiny.Built) -> tuple[float, float]:
    counter = OperationCounter(built.model, built.task, torch.device("cpu"))
    return counter.training(SIZES), counter.prediction(SIZES)


def fewer(built: tiny.Built) -> tiny.Built:
    """The lowest layer trains no more."""
    for name, parameter in built.model.named_parameters():
        if "layer.0." in name:
            parameter.requires_grad = False
    return built


@pytest.fixture(autouse=True)
def _nothing_counted_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "_counted", {})


@pytest.mark.parametrize("tuning", TUNINGS)
def test_a_model_like_one_before_is_not_counted_again(tuning: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = counted(tiny.build("bert", tuning=tuning))
    assert min(first) > 0
    monkeypatch.setattr(OperationCounter, "_count", None)
    assert counted(tiny.build("bert", tuning=tuning, seed=3)) == first


OTHERS: dict[str, Any] = {
    "rank": lambda: tiny.build("bert", lora={"rank": 4}),
    "layers": lambda: tiny.build("bert", layers=4),
    "head": lambda: tiny.build("bert", head="native"),
    "trained": lambda: fewer(tiny.build("bert")),
    "architecture": lambda: tiny.build("llama"),
    "density": lambda: tiny.build("bert", tuning="sparse-lora", sparse={"density": 0.5}),
}


@pytest.mark.parametrize("other", OTHERS)
def test_another_structure_has_operations_of_its_own(other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = counted(OTHERS[other]())
    monkeypatch.setattr(operations, "_counted", {})
    plain = counted(tiny.build("bert"))
    assert counted(tiny.build("bert", tuning="sparse-lora")) != plain
    assert counted(OTHERS[other]()) == alone
    assert alone != plain


@pytest.mark.parametrize("kind", ["bert", "llama"])
@pytest.mark.parametrize("tuning", ["lora", "svd-lora", "prefix"])
def test_a_count_is_that_of_torch(kind: str, tuning: str, monkeypatch: pytest.MonkeyPatch) -> None:
    built = tiny.build(kind, tuning=tuning)
    counter = OperationCounter(built.model, built.task, torch.device("cpu"))
    passes = (counter._forward_backward, counter._forward)
    ours = [counter._count(8, each) for each in passes]

    class Torchs(FlopCounterMode):
        def __init__(self) -> None:
            super().__init__(display=False)

        @property
        def total(self) -> int:
            return self.get_total_flops()

    monkeypatch.setattr("fibecfed.training.operations._Operations", Torchs)
    assert ours == [counter._count(8, each) for each in passes]
    assert ours[0] > ours[1] > 0
