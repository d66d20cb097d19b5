"""Numbers that must not change by accident: 14 methods on two models, and every switch of fibecfed.

The values were measured once and committed. ``python tests/golden/make.py`` writes them anew (with names of cases:
only those) and says which moved; the commit that does so says why.
"""

import warnings

import pytest
import torch

from golden.cases import CASES, HERE, Case
from golden.pinning import committed, differences, digest, machine, measure


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_no_number_moved(case: Case) -> None:
    made_with, expected = committed(case)
    exact = made_with == machine()
    if not exact:
        warnings.warn(
            f"The golden values were made with {made_with}; this is {machine()}. Here the last bits may differ, so "
            "numbers are compared within a tolerance and hashes are not compared.",
            stacklevel=1,
        )
    moved = differences(expected, measure(case), exact)
    assert not moved, f"{len(moved)} values of {case.id} moved:\n" + "\n".join(moved)


def test_every_file_of_values_belongs_to_a_case() -> None:
    assert set((HERE / "values").rglob("*.json")) == {case.file for case in CASES}


def test_a_difference_names_the_value_that_moved() -> None:
    old = {"evaluations": [{"loss_train": 1.0, "bytes_up": 15368}], "adapters": {"global": "ab"}}
    new = {"evaluations": [{"loss_train": 1.00001, "bytes_up": 15376}], "adapters": {"global": "cd", "1": "ef"}}
    assert differences(old, old, exact=True) == []
    assert differences(old, new, exact=True) == [
        "evaluations[0].loss_train: expected 1.0, got 1.00001",
        "evaluations[0].bytes_up: expected 15368, got 15376",
        "adapters.global: expected ab, got cd",
        "adapters.1: expected nothing, got ef",
    ]
    assert differences(old, new, exact=False) == []  # another machine's last bits
    new["evaluations"] = [{"loss_train": 1.001, "bytes_up": 15368}, {"loss_train": None}]
    assert differences(old, new, exact=False) == [
        "evaluations[0].loss_train: expected 1.0, got 1.001",
        "evaluations[1].loss_train: expected nothing, got None",
    ]


def test_a_digest_is_of_names_types_shapes_and_values() -> None:
    tensors = {"a": torch.zeros(2, 3), "b": torch.ones(1)}
    assert digest(tensors) == digest(dict(reversed(tensors.items())))
    others = (
        {"a": torch.zeros(2, 3), "c": torch.ones(1)},
        {"a": torch.zeros(3, 2), "b": torch.ones(1)},
        {"a": torch.zeros(2, 3, dtype=torch.int32), "b": torch.ones(1)},
        {"a": torch.zeros(2, 3), "b": torch.full((1,), 1 + 2**-23)},
    )
    assert digest(tensors) not in {digest(other) for other in others}
