"""Layouts: order, sizes, selection."""

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
    with pytest.raises(KeyError):
        LAYOUT.select({"0.A": TENSORS["0.A"]})
