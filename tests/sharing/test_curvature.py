"""Gradients and Hessian products of real models against autograd's dense Hessian and against differences."""

from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from fibecfed.errors import InputError
from fibecfed.sharing.curvature import DeviceLoss, lossless_share, plateau_share
from fibecfed.sharing.spectrum import lanczos
from fibecfed.tasks import Batch
from sharing.toys import KINDS, TASK, classifier, dense_gap_count, dense_hessian, frozen_state, lora_names, tokens

LENGTHS = (6, 3, 5, 2, 4)


def device_loss(kind: str, batch_size: int = 5, attention: str = "sdpa", spread: float = 0.3) -> DeviceLoss:
    model, layout = classifier(kind, attention=attention, spread=spread)
    batch = tokens(LENGTHS)
    batches = [batch.rows(start, start + batch_size) for start in range(0, len(batch), batch_size)]
    return DeviceLoss(model.eval(), TASK, batches, lora_names(layout))


def by_differences(loss: DeviceLoss, vector: np.ndarray) -> np.ndarray:
    """(d,) H v by central differences of gradients: another way to the same numbers."""
    size = sum(float(p.detach().float().square().sum()) for p in loss._parameters) ** 0.5
    step = 1e-3 * (1 + size) / np.linalg.norm(vector)
    return (loss.gradient(step * vector) - loss.gradient(-step * vector)) / (2 * step)


@cache
def autograd_hessian(kind: str, spread: float) -> np.ndarray:
    """The dense Hessian by torch.autograd.functional, independent of the code under test; eager attention."""
    model, layout = classifier(kind, attention="eager", spread=spread)
    model.eval()
    parameters = dict(model.named_parameters())
    names, batch = lora_names(layout), tokens(LENGTHS)
    sizes = [parameters[name].numel() for name in names]

    def loss(flat: Tensor) -> Tensor:
        pieces = flat.split(sizes)
        values = {name: piece.view_as(parameters[name]) for name, piece in zip(names, pieces, strict=True)}
        return nn.functional.cross_entropy(functional_call(model, values, (batch,)), batch.targets)

    start = torch.cat([parameters[name].detach().flatten() for name in names])
    return torch.autograd.functional.hessian(loss, start).double().numpy()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spread", [0.3, 0.0])
def test_products_are_those_of_the_dense_hessian(kind: str, spread: float) -> None:
    wanted = autograd_hessian(kind, spread)
    loss = device_loss(kind, spread=spread)
    found = dense_hessian(loss.hessian_product, loss.dim)
    assert np.abs(wanted).max() > 0.01
    assert np.allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("kind", KINDS)
def test_the_top_five_eigenvalues_agree_with_a_dense_solver(kind: str) -> None:
    wanted = np.linalg.eigvalsh(autograd_hessian(kind, 0.3))
    loss = device_loss(kind)
    run = lanczos(loss.hessian_product, loss.dim, 30, np.random.default_rng(0))
    assert loss.dim > 30 and run.converged[-5:].all()
    assert np.allclose(run.values[-5:], wanted[-5:], rtol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_differences_of_gradients_agree_with_exact_products(kind: str) -> None:
    loss, rng = device_loss(kind), np.random.default_rng(0)
    for length in (1.0, 300.0):
        vector = rng.standard_normal(loss.dim)
        vector *= length / np.linalg.norm(vector)
        exact = loss.hessian_product(vector)
        assert np.linalg.norm(by_differences(loss, vector) - exact) < 2e-3 * np.linalg.norm(exact)


def test_the_gradient_is_autograds_also_at_an_offset() -> None:
    model, layout = classifier("bert")
    names, batch = lora_names(layout), tokens(LENGTHS)
    loss = DeviceLoss(model, TASK, [batch], names)
    offset = np.random.default_rng(0).standard_normal(loss.dim)
    found = loss.gradient(offset)
    parameters, at = dict(model.eval().named_parameters()), 0
    for name in names:
        p = parameters[name]
        p.data += torch.from_numpy(offset[at : at + p.numel()]).view_as(p)
        at += p.numel()
    TASK.losses(model, batch).mean().backward()
    wanted = np.concatenate([parameters[name].grad.flatten().numpy() for name in names])  # type: ignore[union-attr]
    assert np.allclose(found, wanted, atol=1e-6) and np.abs(wanted).max() > 0.01


def test_the_cut_into_batches_changes_nothing() -> None:
    whole, parts = device_loss("bert"), device_loss("bert", batch_size=2)
    vector = np.random.default_rng(0).standard_normal(whole.dim)
    assert np.allclose(whole.hessian_product(vector), parts.hessian_product(vector), atol=1e-5)
    assert np.allclose(whole.gradient(), parts.gradient(), atol=1e-6)


def test_the_model_is_left_as_it_was() -> None:
    model, layout = classifier("bert")
    model.train()
    model.backbone.base_model.model.encoder.layer[0].eval()
    before, modes = frozen_state(model), [module.training for module in model.modules()]
    loss = DeviceLoss(model, TASK, [tokens(LENGTHS)], lora_names(layout))
    vector = np.random.default_rng(0).standard_normal(loss.dim)
    first = loss.hessian_product(vector)
    loss.gradient(vector)
    assert frozen_state(model) == before
    assert [module.training for module in model.modules()] == modes
    assert np.array_equal(loss.hessian_product(vector), first)  # no dropout, no drift


def test_parameters_are_restored_when_the_task_fails() -> None:
    class Broken:
        def losses(self, model: nn.Module, batch: Batch) -> Tensor:
            raise ValueError("no loss today")

    model, layout = classifier("bert")
    before = frozen_state(model)
    loss = DeviceLoss(model, Broken(), [tokens(LENGTHS)], lora_names(layout))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no loss today"):
        loss.gradient(np.ones(loss.dim))
    assert frozen_state(model) == before


class Cubic(nn.Module):
    """F(x) = mean over examples of label * (x_0^3 / 6 + x_0 x_1) + 5 x_2, by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.tensor([3.0, 1.0, 2.0], dtype=torch.float64))
        self.unused = nn.Parameter(torch.zeros(2, dtype=torch.float64))


class CubicTask:
    def losses(self, model: Cubic, batch: Batch) -> Tensor:
        first, second, third = model.x
        return batch.targets * (first**3 / 6 + first * second) + 5 * third


def labelled(*labels: int) -> Batch:
    ones = torch.ones(len(labels), 1, dtype=torch.int64)
    return Batch(ones, ones, torch.tensor(labels))


def test_gradient_and_hessian_by_hand() -> None:
    # Mean label 2: gradient (2 (9/2 + 1), 2 * 3, 5), Hessian 2 [[3, 1], [1, 0]], and nothing for the linear x_2.
    loss = DeviceLoss(Cubic(), CubicTask(), [labelled(1, 2), labelled(3)], ["unused", "x"])  # type: ignore[arg-type]
    assert np.allclose(loss.gradient(), [0, 0, 11, 6, 5], atol=1e-15)
    product = loss.hessian_product(np.array([7.0, 7.0, 1.0, 10.0, 9.0]))
    assert np.allclose(product, [0, 0, 2 * (3 + 10), 2 * 1, 0], atol=1e-14)


def test_a_linear_loss_has_no_curvature() -> None:
    loss = DeviceLoss(Cubic(), CubicTask(), [labelled(0)], ["x"])  # type: ignore[arg-type]

    class Linear:
        def losses(self, model: Cubic, batch: Batch) -> Tensor:
            return model.x.sum() * batch.targets

    linear = DeviceLoss(Cubic(), Linear(), [labelled(2)], ["x"])  # type: ignore[arg-type]
    assert np.array_equal(linear.hessian_product(np.ones(3)), np.zeros(3))
    assert np.array_equal(loss.hessian_product(np.ones(3)), np.zeros(3))


class Fused(nn.Module):
    """Attention by the fused CPU kernel, called by name so that no setting can replace it."""

    def __init__(self) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.linspace(-1, 1, 24).view(1, 1, 6, 4))


class FusedTask:
    def losses(self, model: Fused, batch: Batch) -> Tensor:
        attended, _ = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(model.x, model.x, model.x)
        return attended.square().sum() * batch.targets


class PlainTask:
    def losses(self, model: Fused, batch: Batch) -> Tensor:
        return nn.functional.scaled_dot_product_attention(model.x, model.x, model.x).square().sum() * batch.targets


def test_what_cannot_be_differentiated_twice_is_named() -> None:
    vector = np.linspace(1, -2, 24)
    with pytest.raises(InputError, match=r"differentiated twice .* another sharing.count"):
        DeviceLoss(Fused(), FusedTask(), [labelled(1)], ["x"]).hessian_product(vector)  # type: ignore[arg-type]
    once = DeviceLoss(Fused(), FusedTask(), [labelled(1)], ["x"])  # type: ignore[arg-type]
    exact = DeviceLoss(Fused(), PlainTask(), [labelled(1)], ["x"]).hessian_product(vector)  # type: ignore[arg-type]
    assert np.linalg.norm(by_differences(once, vector) - exact) < 2e-3 * np.linalg.norm(exact)


def test_attention_with_one_derivative_is_refused_by_name() -> None:
    model, layout = classifier("bert")
    model.backbone.config._attn_implementation_internal = "flash_attention_2"  # the public setter wants it installed
    loss = DeviceLoss(model, TASK, [tokens(LENGTHS)], lora_names(layout))
    with pytest.raises(InputError, match="'flash_attention_2' cannot be differentiated twice"):
        loss.hessian_product(np.ones(loss.dim))


def test_other_errors_of_torch_are_not_renamed() -> None:
    class Mismatched:
        def losses(self, model: Cubic, batch: Batch) -> Tensor:
            return model.x @ torch.ones(4, dtype=torch.float64)

    with pytest.raises(RuntimeError, match="size"):
        DeviceLoss(Cubic(), Mismatched(), [labelled(1)], ["x"]).hessian_product(np.ones(3))  # type: ignore[arg-type]


def test_the_hessian_at_an_offset_by_hand() -> None:
    loss = DeviceLoss(Cubic(), CubicTask(), [labelled(2)], ["x"])  # type: ignore[arg-type]
    offset, vector = np.array([0.5, 9.0, 9.0]), np.array([1.0, 10.0, 9.0])
    assert np.allclose(loss.hessian_product(vector, offset), [2 * (3.5 + 10), 2, 0], atol=1e-14)


def test_the_lossless_share_of_a_model_by_hand() -> None:
    # Eigenvalues of 2 [[3, 1], [1, 0]] are 3 +- sqrt(13): -.61 and 6.61; x_2 adds 0. The gaps are .61 and 6.61.
    # Moved by D, the Hessian changes by 2 D_0 in its first entry: at most twice the radius.
    loss = DeviceLoss(Cubic(), CubicTask(), [labelled(2)], ["x"])  # type: ignore[arg-type]
    near = lossless_share(loss, 0.5, 3, 20, np.random.default_rng(0))
    assert np.allclose(near.spectrum.values, [3 - 13**0.5, 0, 3 + 13**0.5])
    assert 0.61 / 4 < near.lipschitz <= 1.0 and near.radius == 0.5
    assert near.fraction == pytest.approx(1 / 3)  # m = 2: the gap at the top
    close = lossless_share(loss, 0.05, 3, 20, np.random.default_rng(0))
    assert 0.08 < close.lipschitz <= 0.1 and close.fraction == pytest.approx(2 / 3)  # m = 1: the gap at the bottom
    far = lossless_share(loss, 5.0, 3, 20, np.random.default_rng(0))
    assert far.lipschitz > 6.61 / 4 and far.fraction is None


def test_the_shares_of_a_real_model_match_the_dense_rule_and_repeat() -> None:
    loss = device_loss("bert")
    share = lossless_share(loss, 0.01, loss.dim, 1, np.random.default_rng(5))
    eigenvalues = np.linalg.eigvalsh(autograd_hessian("bert", 0.3))
    assert np.allclose(share.spectrum.values, eigenvalues, atol=1e-5 * eigenvalues.max())
    m = dense_gap_count(eigenvalues, share.lipschitz)
    assert m is not None and share.fraction == 1 - m / loss.dim
    first, again = (lossless_share(loss, 0.01, 3, 1, np.random.default_rng(5)) for _ in range(2))
    assert np.array_equal(first.spectrum.values, again.spectrum.values) and first.lipschitz == again.lipschitz
    plateau = plateau_share(loss, 15, 2, np.random.default_rng(5))
    assert plateau is not None and 0 < plateau < 1


def test_passes_are_counted() -> None:
    loss = DeviceLoss(Cubic(), CubicTask(), [labelled(1), labelled(2)], ["x", "unused"])  # type: ignore[arg-type]
    loss.gradient()
    lossless_share(loss, 0.1, 3, 2, np.random.default_rng(0))
    # 3 Lanczos steps, then 2 samples of two products for each of 5 steps: no more than there are parameters.
    assert (loss.gradients, loss.products) == (1, 3 + 2 * 2 * 5)
    plateau_share(loss, 2, 3, np.random.default_rng(0))
    assert (loss.gradients, loss.products) == (1, 3 + 2 * 2 * 5 + 2 * 3)


def test_what_cannot_be_a_device_loss() -> None:
    model, layout = classifier("bert")
    names = lora_names(layout)
    with pytest.raises(InputError, match="no parameter"):
        DeviceLoss(model, TASK, [tokens(LENGTHS)], ["nowhere"])
    with pytest.raises(InputError, match="no parameter"):
        DeviceLoss(model, TASK, [tokens(LENGTHS)], [])
    with pytest.raises(InputError, match="at least one example"):
        DeviceLoss(model, TASK, [], names)
    with pytest.raises(InputError, match="does not fit"):
        DeviceLoss(model, TASK, [tokens(LENGTHS)], names).hessian_product(np.ones(3))
