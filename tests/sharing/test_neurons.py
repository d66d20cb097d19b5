"""Momentum Fisher, neuron scores and row masks against hand-computed numbers."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from fibecfed.errors import InputError, RunFailed
from fibecfed.sharing.neurons import MomentumFisher, RowMask, choose_rows, kept_rows, neuron_scores, top_rows
from fibecfed.tuning import Layout, Parameter
from sharing.toys import pairs

FEW = settings(max_examples=60, deadline=None, derandomize=True)
PAIR = pairs(1, rank=2, width=3).only(["0.A", "0.B"])  # A (2, 3), B (3, 2)


def test_momentum_fisher_by_hand() -> None:
    fisher = MomentumFisher(pairs(1, rank=1, width=2).only(["0.A"]), gamma=0.75)
    assert torch.equal(fisher.values["0.A"], torch.zeros(1, 2))
    # F: .25 * 4 = 1; then .75 * 1 + .25 * 16 = 4.75; entry two: .25 * 1 = .25; then .1875 + 0.
    fisher.fold({"0.A": torch.tensor([[2.0, -1.0]]), "head": torch.ones(3)})
    assert torch.equal(fisher.values["0.A"], torch.tensor([[1.0, 0.25]]))
    fisher.fold({"0.A": torch.tensor([[-4.0, 0.0]])})
    assert torch.allclose(fisher.values["0.A"], torch.tensor([[4.75, 0.1875]]))


def test_momentum_fisher_squares_before_it_averages() -> None:
    fisher = MomentumFisher(pairs(1, rank=1, width=1).only(["0.A"]), gamma=0.5)
    for gradient in (1.0, -1.0) * 20:
        fisher.fold({"0.A": torch.tensor([[gradient]])})
    assert fisher.values["0.A"].item() == pytest.approx(1, abs=1e-5)


def test_momentum_fisher_keeps_small_half_precision_gradients_and_its_inputs() -> None:
    fisher = MomentumFisher(PAIR, gamma=0.0)
    gradients = {
        name: torch.full(shape, 1e-20, dtype=torch.bfloat16) for name, shape in (("0.A", (2, 3)), ("0.B", (3, 2)))
    }
    before = {name: gradient.clone() for name, gradient in gradients.items()}
    fisher.fold(gradients)
    assert fisher.values["0.B"].dtype == torch.float32 and (fisher.values["0.B"] > 0).all()
    assert all(torch.equal(gradients[name], before[name]) for name in before)
    with pytest.raises(KeyError):
        fisher.fold({"0.A": gradients["0.A"]})
    for gamma in (-0.1, 1.0, math.nan):
        with pytest.raises(InputError, match="gamma"):
            MomentumFisher(PAIR, gamma)


def test_a_neuron_is_a_row() -> None:
    assert np.array_equal(neuron_scores(torch.tensor([[1.0, 2.0, 4.0], [0.0, 8.0, 0.5]])), [7.0, 8.5])
    assert neuron_scores(torch.ones(3, 2)).dtype == np.float64
    with pytest.raises(InputError, match="rows of a matrix"):
        neuron_scores(torch.ones(3, 2, 2))


def test_sums_are_float64() -> None:
    row = torch.full((1, 100_000), 0.1)
    assert neuron_scores(row)[0] == pytest.approx(100_000 * float(np.float32(0.1)), rel=1e-12)


@pytest.mark.parametrize(
    ("rows", "density", "k"),
    [(8, 0.5, 4), (5, 0.5, 3), (3, 0.5, 2), (8, 0.01, 1), (8, 1.0, 8), (10, 0.14, 1), (1, 0.5, 1)]
)  # fmt: skip
def test_kept_rows_round_halves_up_and_keep_one(rows: int, density: float, k: int) -> None:
    assert kept_rows(rows, density) == k


@pytest.mark.parametrize("density", [0.0, -0.5, 1.01, math.nan])
def test_impossible_densities(density: float) -> None:
    with pytest.raises(InputError, match="density"):
        kept_rows(4, density)


def test_the_best_rows_ascending_ties_by_index() -> None:
    assert top_rows(np.array([3.0, 9.0, 1.0, 9.0]), 0.5).tolist() == [1, 3]
    assert top_rows(np.array([3.0, 1.0, 3.0, 3.0]), 0.5).tolist() == [0, 2]
    assert top_rows(np.zeros(5), 0.4).tolist() == [0, 1]
    with pytest.raises(RunFailed, match="not finite"):
        top_rows(np.array([1.0, np.inf]), 0.5)


@FEW
@given(scores=st.lists(st.integers(0, 4), min_size=1, max_size=20), density=st.floats(0.01, 1.0))
def test_exactly_k_rows_and_none_left_out_is_better(scores: list[int], density: float) -> None:
    kept = top_rows(np.array(scores, dtype=float), density)
    assert kept.dtype == torch.int64 and len(kept) == max(1, math.floor(density * len(scores) + 0.5))
    inside = kept.tolist()
    assert inside == sorted(set(inside))
    outside = [row for row in range(len(scores)) if row not in inside]
    assert all((-scores[i], i) < (-scores[o], o) for i in inside for o in outside)


def listed(mask: RowMask) -> dict[str, list[int]]:
    return {name: rows.tolist() for name, rows in mask.rows.items()}


def test_rows_are_compared_within_one_matrix_only() -> None:
    fisher = {"0.A": torch.tensor([[1.0, 1, 1], [2, 2, 2]]), "0.B": 1000 * torch.tensor([[1.0, 0], [3, 0], [0, 2]])}
    mask = choose_rows("fisher", PAIR, 0.5, fisher)
    assert listed(mask) == {"0.A": [1], "0.B": [1, 2]}
    assert mask.entries(PAIR) == 3 + 4


def test_the_controls() -> None:
    assert listed(choose_rows("dense", PAIR, 0.5)) == {"0.A": [0, 1], "0.B": [0, 1, 2]}
    assert listed(choose_rows("none", PAIR, 0.5)) == {"0.A": [], "0.B": []}
    assert choose_rows("dense", PAIR, 0.5).entries(PAIR) == 12 and choose_rows("none", PAIR, 0.5).entries(PAIR) == 0
    drawn = [choose_rows("random", PAIR, 0.5, rng=np.random.default_rng(seed)) for seed in range(60)]
    assert drawn[0] == choose_rows("random", PAIR, 0.5, rng=np.random.default_rng(0))
    assert all(len(mask.rows["0.A"]) == 1 and len(mask.rows["0.B"]) == 2 for mask in drawn)
    assert {tuple(mask.rows["0.B"].tolist()) for mask in drawn} == {(0, 1), (0, 2), (1, 2)}


def test_what_cannot_be_chosen() -> None:
    for fisher in (None, {"0.A": torch.ones(2, 3)}, {"0.A": torch.ones(2, 3), "0.B": torch.ones(2, 3)}):
        with pytest.raises(InputError, match=r"Fisher diagonal of '0\.[AB]'"):
            choose_rows("fisher", PAIR, 0.5, fisher)
    with pytest.raises(InputError, match="random generator"):
        choose_rows("random", PAIR, 0.5)
    with pytest.raises(InputError, match="'best' chooses no rows"):
        choose_rows("best", PAIR, 0.5)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no matrix"):
        choose_rows("dense", Layout((Parameter("filter", (4, 2, 2), 0, "filter"),), 1), 0.5)


def test_a_vector_has_one_entry_a_neuron() -> None:
    bias = Layout((Parameter("bias", (4,), 0, "bias"),), 1)
    mask = choose_rows("fisher", bias, 0.5, {"bias": torch.tensor([1.0, 9.0, 2.0, 3.0])})
    assert mask.rows["bias"].tolist() == [1, 3]
    assert mask.entries(bias) == 2


@FEW
@given(rows=st.lists(st.sets(st.integers(0, 6)), min_size=1, max_size=4))
def test_masks_survive_a_file(rows: list[set[int]], tmp_path_factory: pytest.TempPathFactory) -> None:
    mask = RowMask({f"{i}.A": torch.tensor(sorted(r), dtype=torch.int64) for i, r in enumerate(rows)})
    path: Path = tmp_path_factory.mktemp("mask") / "mask.safetensors"
    save_file(mask.to_tensors(), path)
    assert RowMask({name: load_file(path)[name] for name in mask.rows}) == mask
    layout = Layout(tuple(Parameter(f"{i}.A", (7, 2), 0, "lora_A") for i in range(len(rows))), 1)
    assert mask.entries(layout) == 2 * sum(map(len, rows))


def test_masks_differ_by_any_row_or_name() -> None:
    mask = RowMask({"0.A": torch.tensor([0, 2])})
    assert mask != RowMask({"0.A": torch.tensor([0, 1])}) and mask != RowMask({"0.B": torch.tensor([0, 2])})
    assert mask != RowMask({"0.A": torch.tensor([0])}) and mask != "mask"
