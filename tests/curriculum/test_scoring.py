"""One pass over a device's examples scores them in their own order and serves initialization's other needs."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from curriculum.brute_force import Choice, Reader, examples, gradients, padded, squared_norms, transformer
from fibecfed.curriculum import score
from fibecfed.errors import InputError, RunFailed
from fibecfed.models import blocks
from fibecfed.sharing.neurons import MomentumFisher
from fibecfed.sharing.sensitivity import LayerChange, layer_sensitivity
from fibecfed.tasks import Batch
from fibecfed.tuning import Layout, Parameter

TASK = Choice()
LENGTHS = [5, 2, 9, 3, 3, 7, 1, 4]
INDICES = np.array([6, 0, 2, 5, 3])


@pytest.fixture(scope="module")
def reader() -> tuple[Reader, list[str]]:
    return transformer("bert")


def oracle(model: nn.Module, names: list[str]) -> np.ndarray:
    return squared_norms(gradients(model, TASK, padded(LENGTHS), names)).numpy()[INDICES]


@pytest.mark.parametrize("batch_size", [1, 2, 64])
@pytest.mark.parametrize("rng", [None, np.random.default_rng(0)])
def test_scores_come_in_the_order_of_the_indices(
    reader: tuple[Reader, list[str]], batch_size: int, rng: np.random.Generator | None
) -> None:
    model, names = reader
    found = score("fisher", model, TASK, examples(LENGTHS), INDICES, names, batch_size, rng=rng)
    assert found.difficulty.dtype == found.losses.dtype == np.float64
    np.testing.assert_allclose(found.difficulty, oracle(model, names), rtol=1e-9)
    losses = TASK.losses(model, padded(LENGTHS)).detach().numpy()[INDICES]
    np.testing.assert_allclose(found.losses, losses, rtol=1e-9)
    assert sum(b for b, _ in found.sizes) == len(INDICES)
    if batch_size == 2 and rng is None:
        assert found.sizes == ((2, 3), (2, 7), (1, 9))


def test_the_loss_as_difficulty_needs_no_backward_pass(
    reader: tuple[Reader, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, names = reader
    wanted = score("fisher", model, TASK, examples(LENGTHS), INDICES, names, 2).losses

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a backward pass ran")

    with monkeypatch.context() as patched:
        patched.setattr(torch.autograd, "grad", refuse)
        found = score("loss", model, TASK, examples(LENGTHS), INDICES, names, 2)
    np.testing.assert_allclose(found.difficulty, wanted, rtol=1e-12)
    np.testing.assert_array_equal(found.difficulty, found.losses)
    taken: list[Mapping[str, Tensor]] = []
    found = score("loss", model, TASK, examples(LENGTHS), INDICES, names, 2, on_gradients=taken.append)
    np.testing.assert_allclose(found.difficulty, wanted, rtol=1e-12)
    assert len(taken) == 3


def test_fisher_of_the_model_is_another_score(reader: tuple[Reader, list[str]]) -> None:
    model, names = reader
    data = examples(LENGTHS)
    expected = np.zeros(len(INDICES))
    chances = torch.softmax(model(padded(LENGTHS)).detach(), dim=1).numpy()[INDICES]
    for label in range(TASK.outputs):
        batch = padded(LENGTHS)
        batch.targets.fill_(label)
        expected += chances[:, label] * squared_norms(gradients(model, TASK, batch, names)).numpy()[INDICES]
    found = score("fisher-model", model, TASK, data, INDICES, names, 3)
    np.testing.assert_allclose(found.difficulty, expected, rtol=1e-9)
    plain = score("fisher", model, TASK, data, INDICES, names, 3)
    np.testing.assert_allclose(found.losses, plain.losses, rtol=1e-9)
    assert not np.allclose(found.difficulty, plain.difficulty)


@pytest.mark.parametrize("kind", ["fisher", "fisher-model", "loss"])
def test_one_forward_pass_serves_scores_fisher_diagonal_and_noise(reader: tuple[Reader, list[str]], kind: Any) -> None:
    model, names = reader
    parameters = dict(model.named_parameters())
    layout = Layout(tuple(Parameter(n, tuple(parameters[n].shape), 0, "lora_A") for n in names), 2)
    fisher = MomentumFisher(layout)
    noise: list[tuple[Batch, Tensor]] = []
    passes: list[int] = []
    handle = model.register_forward_hook(lambda *_: passes.append(1))
    found = score(
        kind, model, TASK, examples(LENGTHS), INDICES, names, 2,
        first_block=model.first_block, on_gradients=fisher.fold, on_noise_gradient=lambda *pair: noise.append(pair),
    )  # fmt: skip
    handle.remove()
    assert len(passes) == len(found.sizes) == 3

    each = gradients(model, TASK, padded(LENGTHS), names)
    by_hand = {name: torch.zeros_like(parameters[name]) for name in names}
    for chosen in ([6, 3], [0, 5], [2]):  # by length, ties by place in INDICES
        for name in names:
            mean = torch.stack([each[i][name] for i in chosen]).mean(dim=0)
            by_hand[name] = 0.9 * by_hand[name] + 0.1 * mean.square()
    for name in names:
        torch.testing.assert_close(fisher.values[name], by_hand[name].detach(), rtol=1e-9, atol=1e-15)

    assert [tuple(gradient.shape) for _, gradient in noise] == [(2, 3, 16), (2, 7, 16), (1, 9, 16)]
    for batch, gradient in noise:
        assert not gradient[batch.attention_mask == 0].any()


def test_the_noise_gradient_can_be_used_while_scoring_goes_on(reader: tuple[Reader, list[str]]) -> None:
    """layer_sensitivity runs the model under the scorer's hooks; neither disturbs the other."""
    model, names = reader
    stack = list(blocks(model.backbone, model.backbone.config))
    changes: list[LayerChange] = []
    later: list[tuple[Batch, Tensor]] = []

    def disturb(batch: Batch, gradient: Tensor) -> None:
        later.append((batch, gradient))
        changes.append(layer_sensitivity(model, stack, batch, gradient, 0.01))

    found = score(
        "fisher", model, TASK, examples(LENGTHS), INDICES, names, 2, first_block=stack[0], on_noise_gradient=disturb
    )
    np.testing.assert_allclose(found.difficulty, oracle(model, names), rtol=1e-9)
    for change, (batch, gradient) in zip(changes, later, strict=True):
        alone = layer_sensitivity(model, stack, batch, gradient, 0.01)
        np.testing.assert_array_equal(change.change, alone.change)
        assert change.examples == len(batch)


def test_a_model_in_training_mode_is_scored_in_evaluation_mode(reader: tuple[Reader, list[str]]) -> None:
    model, names = reader
    wanted = oracle(model, names)
    model.train()
    model.head.eval()
    before = [module.training for module in model.modules()]
    found = score("fisher", model, TASK, examples(LENGTHS), INDICES, names, 2)
    assert [module.training for module in model.modules()] == before
    model.eval()
    np.testing.assert_allclose(found.difficulty, wanted, rtol=1e-9)


def test_no_examples_give_no_scores(reader: tuple[Reader, list[str]]) -> None:
    model, names = reader
    found = score("fisher", model, TASK, examples(LENGTHS), np.empty(0, np.int64), names, 2)
    assert found.difficulty.shape == found.losses.shape == (0,)
    assert found.sizes == ()


@pytest.mark.parametrize("kind", ["fisher", "loss"])
def test_a_score_that_is_not_finite_names_the_example(kind: Any) -> None:
    model, names = transformer("bert")

    class Diverged(Choice):
        def losses(self, model: nn.Module, batch: Batch) -> Tensor:
            return super().losses(model, batch) * torch.where(batch.attention_mask.sum(1) == 7, torch.nan, 1.0)

    with pytest.raises(RunFailed, match="Training example 6 has difficulty nan"):
        score(kind, model, Diverged(), examples(LENGTHS), INDICES, names, 1)


def test_wrong_requests_are_refused(reader: tuple[Reader, list[str]]) -> None:
    model, names = reader
    unknown: Any = "hessian"
    with pytest.raises(InputError, match="'hessian' is no score"):
        score(unknown, model, TASK, examples(LENGTHS), INDICES, names, 2)
    with pytest.raises(ValueError, match="both or neither"):
        score("fisher", model, TASK, examples(LENGTHS), INDICES, names, 2, first_block=model.first_block)
