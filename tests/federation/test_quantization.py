"""Numbers written small: rows of int8 by hand, rounding without bias, the largest entries, and broken parts."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fibecfed.federation.codec import Undecodable
from fibecfed.federation.quantization import Bfloat16, Int8Rows, Packing, TopK

PACKINGS = [Bfloat16(), Int8Rows(), TopK(0.25), TopK(0.01)]


def always(value: float) -> Callable[[int, int], np.ndarray]:
    """Draws that are all alike."""
    return lambda position, count: np.full(count, value)


def random(seed: int) -> Callable[[int, int], np.ndarray]:
    return lambda position, count: np.random.default_rng([seed, position]).random(count)


def there_and_back(packing: Packing, tensors: list[Tensor], draw: Callable[[int, int], np.ndarray]) -> list[Tensor]:
    return packing.unpacked(packing.packed(tensors, draw), [tuple(t.shape) for t in tensors])


def test_int8_rows_by_hand() -> None:
    # Scales 1 and 0.5. With u = 0 everything goes down, with u = 0.75 only what is within 0.25 of the point below.
    matrix = torch.tensor([[127.0, -2.5, 0.2, 0.0], [-63.5, 0.5, 10.1, -0.3]])
    down, up = (Int8Rows().packed([matrix], always(u)) for u in (0.0, 0.75))
    assert down["scales"].tolist() == up["scales"].tolist() == [1.0, 0.5]
    assert down["int8"].tolist() == [127, -3, 0, 0, -127, 1, 20, -1]
    assert up["int8"].tolist() == [127, -2, 0, 0, -127, 1, 20, 0]
    (back,) = Int8Rows().unpacked(up, [(2, 4)])
    assert back.tolist() == [[127.0, -2.0, 0.0, 0.0], [-63.5, 0.5, 10.0, 0.0]]


def test_rows_lie_along_the_longer_side() -> None:
    tall = torch.tensor([[127.0, 0.0], [4.0, 1.27], [3.0, 0.5], [-127.0, -0.01]])
    packed = Int8Rows().packed([tall], always(0.5))
    torch.testing.assert_close(packed["scales"], torch.tensor([1.0, 0.01]))  # one a column
    assert packed["int8"].tolist() == [127, 4, 3, -127, 0, 127, 50, -1]
    (back,) = Int8Rows().unpacked(packed, [(4, 2)])
    torch.testing.assert_close(back, tall)


def test_a_row_of_zeros_and_one_too_small_for_a_scale_become_zeros() -> None:
    (back,) = there_and_back(Int8Rows(), [torch.tensor([[0.0, 0.0], [1e-45, -1e-45]])], always(0.99))
    assert back.tolist() == [[0.0, 0.0], [0.0, 0.0]]


@given(st.integers(0, 1000), st.floats(-40, 40), st.integers(1, 5), st.integers(1, 5))
def test_int8_is_off_by_less_than_a_step(seed: int, magnitude: float, rows: int, columns: int) -> None:
    tensor = torch.from_numpy(np.random.default_rng(seed).normal(size=(rows, columns)) * 2.0**magnitude).float()
    (back,) = there_and_back(Int8Rows(), [tensor], random(seed))
    steps = tensor.abs().amax(dim=1 if rows <= columns else 0, keepdim=True) / 127
    assert ((back - tensor).abs() <= steps * (1 + 1e-5)).all()


def test_rounding_has_no_bias() -> None:
    tensor = torch.from_numpy(np.random.default_rng(3).normal(size=(4, 25))).float()
    many = 4000
    mean = torch.stack([there_and_back(Int8Rows(), [tensor], random(n))[0] for n in range(many)]).double().mean(dim=0)
    step = tensor.abs().amax(dim=1, keepdim=True).double() / 127
    deviations = (mean - tensor).abs() / (step * 0.5 / many**0.5)  # a rounding has a deviation of at most half a step
    assert deviations.max() < 5
    down = there_and_back(Int8Rows(), [tensor], always(0.0))[0]
    assert ((tensor - down) / step).mean() > 0.3  # what a rounding with bias would show


def test_the_largest_entries_by_hand() -> None:
    tensors = [torch.tensor([[1.0, -3.0, 0.5, 2.0], [0.0, 3.0, -3.0, 0.25]]), torch.tensor([[5.0, 6.0]])]
    packed = TopK(0.25).packed(tensors, always(0.0))  # 2 of 8, of equal ones the first; 1 of 2
    assert packed["values"].tolist() == [-3.0, 3.0, 6.0]
    assert packed["places"].tolist() == [0b01000100, 0b01000000]
    back = TopK(0.25).unpacked(packed, [(2, 4), (1, 2)])
    assert [t.tolist() for t in back] == [[[0.0, -3.0, 0.0, 0.0], [0.0, 3.0, 0.0, 0.0]], [[0.0, 6.0]]]
    few = TopK(0.01).packed(tensors, always(0.0))  # one of each, named by its place
    assert (few["places"].tolist(), few["values"].tolist()) == ([1, 9], [-3.0, 6.0])


@pytest.mark.parametrize("packing", PACKINGS, ids=lambda packing: type(packing).__name__)
def test_what_is_packed_has_the_outline_and_comes_back_in_shape(packing: Packing) -> None:
    shapes = [(8, 5), (3, 40), (2, 3, 7), (50,)]
    tensors = [torch.from_numpy(np.random.default_rng(1).normal(size=shape)).float() for shape in shapes]
    packed, outline = packing.packed(tensors, random(0)), packing.outline(shapes)
    assert {n: (t.shape, t.dtype) for n, t in packed.items()} == {n: (t.shape, t.dtype) for n, t in outline.items()}
    for back, tensor in zip(packing.unpacked(packed, shapes), tensors, strict=True):
        assert (back.shape, back.dtype) == (tensor.shape, torch.float32)
        kept = back != 0
        assert kept.any()
        torch.testing.assert_close(back[kept], tensor[kept], rtol=0.01, atol=0.05)


@pytest.mark.parametrize("packing", PACKINGS, ids=lambda packing: type(packing).__name__)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so(packing: Packing, value: float) -> None:
    tensor = torch.ones(4, 40)
    tensor[2, 3] = value
    assert not torch.isfinite(there_and_back(packing, [tensor], random(0))[0]).all()


@pytest.mark.parametrize("packing", PACKINGS, ids=lambda packing: type(packing).__name__)
def test_parts_that_do_not_fit_are_refused(packing: Packing) -> None:
    packed = packing.packed([torch.ones(4, 40)], random(0))
    for name, part in packed.items():
        for wrong in (part[:-1], part.repeat(2), part.to(torch.float64), None):
            broken = {n: t for n, t in {**packed, name: wrong}.items() if t is not None}
            with pytest.raises(Undecodable):
                packing.unpacked(broken, [(4, 40)])


@pytest.mark.parametrize("places", [[0b11111111] * 20, [0] * 20])
def test_another_number_of_places_is_refused(places: list[int]) -> None:
    packed = TopK(0.25).packed([torch.ones(4, 40)], random(0))
    with pytest.raises(Undecodable):
        TopK(0.25).unpacked({**packed, "places": torch.tensor(places, dtype=torch.uint8)}, [(4, 40)])


@pytest.mark.parametrize("places", [[5, 5], [9, 3], [-1, 3], [3, 1_000_000]])
def test_places_out_of_order_or_outside_are_refused(places: list[int]) -> None:
    packed = TopK(0.01).packed([torch.ones(4, 40)], random(0))
    assert packed["places"].tolist() == [0, 1]
    with pytest.raises(Undecodable):
        TopK(0.01).unpacked({**packed, "places": torch.tensor(places, dtype=torch.int32)}, [(4, 40)])
