"""Noise on the embeddings and what layers make of it, against numbers worked out by hand and real models."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fibecfed.curriculum.fisher import FisherScorer
from fibecfed.errors import InputError, RunFailed
from fibecfed.models import blocks
from fibecfed.sharing.sensitivity import (
    ConsensusSum,
    LayerChange,
    NoiseDirection,
    layer_sensitivity,
    perturbation,
)
from fibecfed.tasks import Batch
from sharing.toys import KINDS, TASK, WIDTH, classifier, frozen_state, lora_names, pairs, tokens

FEW = settings(max_examples=40, deadline=None, derandomize=True)


class Stretch(nn.Module):
    """(x, y) -> (2x, y)"""

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden * torch.tensor([2.0, 1.0])


class Shift(nn.Module):
    """(x, y) -> (x, y + 4), in a tuple as some layers return it; takes its input by keyword."""

    def forward(self, *, hidden_states: Tensor) -> tuple[Tensor, str]:
        return hidden_states + torch.tensor([0.0, 4.0]), "cache"


class Toy(nn.Module):
    """Token n is embedded as (3n, 4n), of norm 5n; then two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Stretch(), Shift()])
        self.calls = 0

    def forward(self, batch: Batch) -> Tensor:
        self.calls += 1
        hidden = batch.input_ids[..., None] * torch.tensor([3.0, 4.0])
        return self.layers[1](hidden_states=self.layers[0](hidden))[0]


def toy_batch(*rows: list[int], width: int | None = None) -> Batch:
    """Token 0 is padding."""
    width = width or max(len(row) for row in rows)
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    return Batch(ids, (ids > 0).long(), torch.zeros(len(rows), dtype=torch.int64))


def answer(model: Any, batch: Batch, direction: NoiseDirection, sigma: float = 0.1) -> LayerChange:
    stack = model.layers if isinstance(model, Toy) else blocks(model, model.backbone.config)
    return layer_sensitivity(model, stack, batch, direction, sigma)


def test_two_layers_by_hand() -> None:
    # One token at (3, 4), noise along x: eps = (0.5, 0). Layer 1 is at (6, 4) and moves by (1, 0);
    # layer 2 is at (6, 8) and moves by (1, 0). Relative change of the input: 0.5 / 5.
    model = Toy()
    found = answer(model, toy_batch([1]), torch.tensor([[[7.0, 0.0]]]))
    first, second = 1 / np.sqrt(52), 1 / 10
    assert np.allclose(found.change, [first, second]) and found.examples == 1
    assert np.allclose(found.gain, [first / 0.1, second / first])
    assert model.calls == 2


def test_an_example_is_normalised_over_its_tokens_and_examples_are_summed() -> None:
    # Tokens 1 and 2: norm sqrt(5^2 + 10^2) = sqrt(125); direction norm sqrt(1 + 3^2) along y of each token, so
    # eps = 0.2 sqrt(125 / 10) (0, 1 | 0, 3), of norm 0.2 sqrt(125). Layers leave it as it is.
    # Layer 1 is at (6, 4 | 12, 8), norm sqrt(260); layer 2 at (6, 8 | 12, 12), norm sqrt(388).
    direction = torch.tensor([[[0.0, 1.0], [0.0, 3.0]], [[7.0, 0.0], [9.0, 9.0]]])
    found = answer(Toy(), toy_batch([1, 2], [1]), direction, sigma=0.2)
    pair, single = 0.2 * np.sqrt(125) / np.sqrt([260, 388]), np.array([2 / np.sqrt(52), 2 / 10])
    assert np.allclose(found.change, pair + single) and found.examples == 2
    assert np.allclose(
        found.gain, np.array([pair[0] + single[0], 0]) / 0.2 + [0, pair[1] / pair[0] + 0.1 * 52**0.5 / 1]
    )
    assert np.allclose(found.scores("sensitivity"), (pair + single) / 2)
    assert np.allclose(found.scores("gain"), found.gain / 2)


@FEW
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=5),
    sigma=st.floats(1e-3, 10),
    seed=st.integers(0, 2**32),
    gaussian=st.booleans(),
)
def test_noise_has_the_stated_norm_for_every_example_and_spares_padding(
    lengths: list[int], sigma: float, seed: int, gaussian: bool
) -> None:
    rng = np.random.default_rng(seed)
    mask = torch.tensor([[1] * n + [0] * (6 - n) for n in lengths])
    hidden = torch.from_numpy(rng.standard_normal((len(lengths), 6, 3)))
    hidden[mask == 0] = torch.nan  # padding may hold anything
    slope = torch.from_numpy(rng.standard_normal((len(lengths), 6, 3)))
    noise = perturbation(hidden, mask, np.random.default_rng(seed) if gaussian else slope, sigma)
    assert not noise[mask == 0].any()
    for row, length in enumerate(lengths):
        wanted = sigma * torch.linalg.vector_norm(hidden[row, :length])
        assert torch.isclose(torch.linalg.vector_norm(noise[row]), wanted, rtol=1e-9)
        if not gaussian:
            cosine = (noise[row, :length] * slope[row, :length]).sum() / (
                wanted * torch.linalg.vector_norm(slope[row, :length])
            )
            assert cosine == pytest.approx(1)


def test_gaussian_noise_is_spread_evenly_and_centred() -> None:
    noise = perturbation(torch.ones(1, 2000, 2), torch.ones(1, 2000), np.random.default_rng(0), 1.0).numpy().ravel()
    assert abs(noise.mean()) < 0.08 and abs(noise.std() - 1) < 0.08  # five standard deviations
    assert abs((noise**4).mean() - 3) < 0.8


def test_noise_repeats_with_the_seed_and_only_then() -> None:
    hidden, mask = torch.ones(2, 3, 4), torch.ones(2, 3)
    first, again, other = (perturbation(hidden, mask, np.random.default_rng(seed), 0.1) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_an_example_without_a_gradient_is_left_out() -> None:
    direction = torch.zeros(2, 1, 2)
    direction[1, 0, 0] = 1.0
    both = answer(Toy(), toy_batch([2], [1]), direction)
    one = answer(Toy(), toy_batch([1]), direction[1:])
    assert both.examples == 1 and np.array_equal(both.change, one.change) and np.array_equal(both.gain, one.gain)
    none = answer(Toy(), toy_batch([1]), torch.zeros(1, 1, 2))
    with pytest.raises(RunFailed, match="zero"):
        none.scores("gain")


def test_sums_of_batches_add_up() -> None:
    direction = torch.randn(3, 2, 2, generator=torch.Generator().manual_seed(0))
    batch = toy_batch([1, 2], [3, 1], [2])
    whole = answer(Toy(), batch, direction)
    parts = answer(Toy(), batch.rows(0, 2), direction[:2]) + answer(Toy(), batch.rows(2, 3), direction[2:])
    assert np.allclose(whole.change, parts.change) and np.allclose(whole.gain, parts.gain) and parts.examples == 3


def test_what_cannot_be_perturbed() -> None:
    direction = torch.ones(1, 1, 2)
    for sigma in (0.0, -1.0, float("nan")):
        with pytest.raises(InputError, match="sigma"):
            answer(Toy(), toy_batch([1]), direction, sigma)
    with pytest.raises(InputError, match="expected"):
        answer(Toy(), toy_batch([1]), torch.ones(1, 2, 2))
    with pytest.raises(RunFailed, match="not finite"):
        answer(Toy(), toy_batch([1]), direction * torch.nan)
    with pytest.raises(InputError, match="one vector per token"):
        perturbation(torch.ones(1, 3, 2), torch.ones(1, 2), torch.ones(1, 3, 2), 0.1)
    model = Toy()
    with pytest.raises(InputError, match="2 times"):
        layer_sensitivity(model, [*model.layers, Stretch()], toy_batch([1]), direction, 0.1)


def embedding_gradient(model: Any, batch: Batch, names: tuple[str, ...]) -> Tensor:
    """The worst-case direction as a scoring pass gives it."""
    first = blocks(model, model.backbone.config)[0]
    with FisherScorer(model.eval(), names, first) as scorer:
        found = scorer.score(TASK, batch).embedding_gradient
    assert found is not None
    return found


def directions(kind: str, batch: Batch) -> tuple[Any, dict[str, NoiseDirection]]:
    model, layout = classifier(kind, layers=3)
    gradient = embedding_gradient(model, batch, lora_names(layout))
    return model, {"gaussian": np.random.default_rng(0), "worst_case": gradient}


def manual_states(model: Any, kind: str, ids: Tensor, noise: Tensor | None) -> list[Tensor]:
    """Layer by layer, without hooks: the block outputs of an unpadded batch, by each architecture's own functions."""
    core = model.backbone.base_model.model
    places = torch.arange(ids.shape[1])[None]
    extra: dict[str, Any] = {}
    if kind == "bert":
        hidden, stack = core.embeddings(ids), core.encoder.layer
    elif kind == "gpt2":
        hidden, stack = core.wte(ids) + core.wpe(places), core.h
    else:
        hidden, stack = core.embed_tokens(ids), core.layers
        extra["position_embeddings"] = core.rotary_emb(hidden, places)
    if kind != "bert":  # decoders see the past only
        extra["attention_mask"] = torch.full((1, 1, ids.shape[1], ids.shape[1]), float("-inf")).triu(1)
    states = [hidden if noise is None else hidden + noise]
    for block in stack:
        output = block(states[-1], **extra)
        states.append(output if isinstance(output, Tensor) else output[0])
    return states


@pytest.mark.parametrize("noise", ["gaussian", "worst_case"])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_real_models_against_running_their_layers_by_hand(kind: str, noise: str) -> None:
    batch = tokens([5, 5, 5])
    with torch.enable_grad():
        model, known = directions(kind, batch)
    found = answer(model, batch, copy.deepcopy(known[noise]))
    clean = manual_states(model, kind, batch.input_ids, None)
    shift = perturbation(clean[0], batch.attention_mask, known[noise], 0.1)
    noisy = manual_states(model, kind, batch.input_ids, shift)
    relative = np.array(
        [((n - c).flatten(1).norm(dim=1) / c.flatten(1).norm(dim=1)).numpy() for n, c in zip(noisy, clean, strict=True)]
    )
    assert np.allclose(relative[0], 0.1, rtol=1e-5)
    assert np.allclose(found.change, relative[1:].sum(axis=1), rtol=1e-4)
    assert np.allclose(found.gain, (relative[1:] / relative[:-1]).sum(axis=1), rtol=1e-4)
    assert found.examples == 3 and (found.change > 0).all()


@pytest.mark.parametrize("noise", ["gaussian", "worst_case"])
@pytest.mark.parametrize("kind", KINDS)
def test_padding_and_the_cut_into_batches_change_nothing(kind: str, noise: str) -> None:
    lengths = [5, 2, 4, 3]
    batch, padded = tokens(lengths), tokens(lengths, width=9)
    model, known = directions(kind, batch)
    wide = embedding_gradient(model, padded, lora_names(classifier(kind, layers=3)[1]))
    assert torch.equal(wide[:, 5:], torch.zeros(4, 4, WIDTH))  # no loss gradient on padding
    whole = answer(model, batch, copy.deepcopy(known[noise]))
    more = answer(model, padded, np.random.default_rng(0) if noise == "gaussian" else wide)
    assert np.allclose(whole.change, more.change, rtol=1e-4) and np.allclose(whole.gain, more.gain, rtol=1e-4)
    if noise == "gaussian":
        rng = np.random.default_rng(0)
        parts = [answer(model, batch.rows(start, start + 1), rng) for start in range(4)]
    else:
        gradient = known["worst_case"]
        assert isinstance(gradient, Tensor)
        parts = [answer(model, batch.rows(at, at + 1), gradient[at : at + 1]) for at in range(4)]
    assert np.allclose(sum(part.change for part in parts), whole.change, rtol=1e-4)
    assert np.allclose(sum(part.gain for part in parts), whole.gain, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_raises_the_loss_more_than_gaussian_noise(kind: str) -> None:
    batch = tokens([5, 4, 6, 3, 5, 4])
    model, known = directions(kind, batch)
    losses: dict[str, float] = {}
    for name, direction in (*known.items(), ("opposite", -known["worst_case"])):  # type: ignore[operator]

        def shifted(_: nn.Module, arguments: tuple[Tensor, ...], direction: NoiseDirection = direction) -> object:
            hidden = arguments[0]
            return (hidden + perturbation(hidden, batch.attention_mask, direction, 1e-3), *arguments[1:])

        hook = blocks(model, model.backbone.config)[0].register_forward_pre_hook(shifted)
        losses[name] = TASK.losses(model, batch).sum().item()
        hook.remove()
    assert losses["worst_case"] > losses["gaussian"] > losses["opposite"]


def test_nothing_is_left_behind() -> None:
    batch = tokens([4, 2])
    model, known = directions("bert", batch)
    model.train()
    model.head.eval()
    before, modes = frozen_state(model), [module.training for module in model.modules()]
    first = answer(model, batch, known["worst_case"])
    assert frozen_state(model) == before and [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert np.array_equal(answer(model, batch, known["worst_case"]).change, first.change)  # no dropout


def consensus(updates: list[dict[str, Tensor]], weights: list[float], layers: int) -> np.ndarray:
    folded = ConsensusSum(pairs(layers, rank=1, width=2))
    for update, weight in zip(updates, weights, strict=True):
        folded.fold(update, weight)
    return folded.result()


def update(*values: float) -> dict[str, Tensor]:
    """One number a layer fills its A; B is zero."""
    found = {"head": torch.full((2, 2), 99.0)}
    for layer, value in enumerate(values):
        found[f"{layer}.A"], found[f"{layer}.B"] = torch.full((1, 2), value), torch.zeros(2, 1)
    return found


def test_consensus_by_hand() -> None:
    # Weights 1 and 3. Layer 0: equal; 1: 3 and -1 cancel; 2: 1 and 0 give (1/4)^2 / (1/4); 3: nobody moves.
    found = consensus([update(2, 3, 1, 0), update(2, -1, 0, 0)], [1, 3], 4)
    assert np.allclose(found, [1, 0, 0.25, 0])


def test_consensus_sums_a_layers_matrices() -> None:
    # A: (1, 0) and (0, 1); B: (1, 1) twice. ||mean||^2 = 2 (1/2)^2 + 2, mean of ||.||^2 = 1 + 2.
    first = {"0.A": torch.tensor([[1.0, 0.0]]), "0.B": torch.ones(2, 1)}
    second = {"0.A": torch.tensor([[0.0, 1.0]]), "0.B": torch.ones(2, 1)}
    assert np.allclose(consensus([first, second], [5, 5], 1), [2.5 / 3])


@FEW
@given(
    values=st.lists(st.lists(st.floats(-10, 10), min_size=2, max_size=2), min_size=1, max_size=6),
    weights=st.lists(st.floats(0.1, 10), min_size=6, max_size=6),
    scale=st.floats(0.1, 10),
)
def test_consensus_lies_between_0_and_1_whatever_the_scale(
    values: list[list[float]], weights: list[float], scale: float
) -> None:
    weights = weights[: len(values)]
    found = consensus([update(*v) for v in values], weights, 2)
    assert (found >= 0).all() and (found <= 1 + 1e-9).all()
    assert np.allclose(consensus([update(*v) for v in values], [scale * w for w in weights], 2), found)


def test_consensus_needs_devices_and_weights() -> None:
    with pytest.raises(RunFailed, match="No device"):
        consensus([], [], 1)
    with pytest.raises(RunFailed, match="weight 0"):
        consensus([update(1)], [0], 1)
    with pytest.raises(KeyError):
        consensus([{"0.A": torch.ones(1, 2)}], [1], 1)
