"""Layouts: order, sizes, selection, and what does not match."""

import pytest
import torch

from fibecfed.tuning import Layout, Parameter

LAYOUT = Layout(
    (
        Parameter("0.A", (2, 16), 0, "lora_A"),
        Parameter("0.B", (16, 2), 0, "lora_B"),
        Parameter("head", (3,), None, "head"),
    ),
    1,
)
TENSORS = {"head": torch.ones(3), "0.B": torch.ones(16, 2), "0.A": torch.ones(2, 16)}


def test_sizes_and_order() -> None:
    assert len(LAYOUT) == 3 and [p.size for p in LAYOUT] == [32, 32, 3] and LAYOUT.size == 67
    assert LAYOUT.names == ("0.A", "0.B", "head")
    assert list(LAYOUT.select(TENSORS)) == ["0.A", "0.B", "head"]
    assert LAYOUT.only(["head", "0.A", "elsewhere"]).names == ("0.A", "head")
    assert LAYOUT.only(["head"]).layers == 1
    assert LAYOUT.to_json()[2] == ["head", [3], None, "head"]
    with pytest.raises(KeyError):
        LAYOUT.select({"0.A": TENSORS["0.A"]})


def test_mismatch() -> None:
    assert LAYOUT.mismatch(TENSORS) is None
    assert LAYOUT.mismatch({**TENSORS, "more": torch.ones(1)}) == "missing none, unexpected ['more']"
    assert LAYOUT.mismatch({"0.A": TENSORS["0.A"]}) == "missing ['0.B', 'head'], unexpected none"
    assert LAYOUT.mismatch({**TENSORS, "head": torch.ones(4)}) == "'head' has shape (4,), expected (3,)"
