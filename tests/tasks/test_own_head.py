"""A device's own head: the fit against an optimizer of scipy, and what held-out folds choose."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax
from torch import Tensor

from fibecfed.tasks.classification import own_head
from fibecfed.tasks.classification.own_head import FEWEST, fit_own_head

CLASSES, WIDTH = 4, 32


def site(seed: int, examples: int, noise: float = 0.0, swapped: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Vectors, the labels that training sees, and the clean ones; vectors gather around CLASSES fixed means."""
    rng = np.random.default_rng(seed)
    means = np.random.default_rng(99).standard_normal((CLASSES, WIDTH)) * 0.6
    labels = rng.integers(0, CLASSES, examples)
    vectors = means[labels] + rng.standard_normal((examples, WIDTH)) + 0.5
    clean = np.array([1, 0, 2, 3])[labels] if swapped else labels
    seen = np.where(rng.random(examples) < noise, (clean + rng.integers(1, CLASSES, examples)) % CLASSES, clean)
    return torch.from_numpy(vectors).float(), torch.from_numpy(seen), torch.from_numpy(clean)


def shared(noise: float = 0.0) -> tuple[Tensor, Tensor]:
    """A head fitted on 2,000 examples of everybody's, who use labels as most sites do."""
    vectors, labels, _ = site(7, 2000, noise)
    head = torch.nn.Linear(WIDTH, CLASSES)
    torch.nn.init.zeros_(head.weight)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=100)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(head(vectors), labels)
        loss.backward()
        return loss

    optimizer.step(closure)
    return head.weight.detach(), head.bias.detach()


def accuracy(vectors: Tensor, labels: Tensor, weight: Tensor, bias: Tensor) -> float:
    return float(((vectors @ weight.T + bias).argmax(dim=1) == labels).double().mean())


def scores(noise: float, swapped: bool, examples: int = 60) -> tuple[float, float]:
    """Mean accuracy of the shared head and of the fitted one over ten sites, on clean held-out examples."""
    weight, bias = shared(noise)
    before, after = [], []
    for seed in range(10):
        vectors, labels, _ = site(seed, examples, noise, swapped)
        tried, _, truth = site(seed + 1000, 500, 0.0, swapped)
        fitted = fit_own_head(vectors, labels, weight, bias, None, np.random.default_rng(seed))
        before.append(accuracy(tried, truth, weight, bias))
        after.append(accuracy(tried, truth, fitted.weight, fitted.bias))
    return float(np.mean(before)), float(np.mean(after))


@pytest.mark.parametrize("strength", [0.3, 0.003])
def test_the_fit_is_the_minimum_that_scipy_finds(monkeypatch: pytest.MonkeyPatch, strength: float) -> None:
    monkeypatch.setattr(own_head, "_chosen", lambda *_: strength)
    vectors, labels, _ = site(0, 30)
    weight, bias, offset = torch.randn(CLASSES, WIDTH) / 6, torch.randn(CLASSES), torch.randn(CLASSES)
    fitted = fit_own_head(vectors, labels, weight, bias, offset, np.random.default_rng(0))
    x = vectors.double().numpy()
    x -= x.mean(axis=0)
    v = x @ (weight - weight.mean(dim=0)).double().numpy().T
    s2, t2 = (np.square(each).sum(axis=1).mean() for each in (x, v))
    base = (vectors @ weight.T + bias + offset).double().numpy()

    def logits(flat: np.ndarray) -> np.ndarray:
        d, m, e = np.split(flat, [CLASSES * WIDTH, CLASSES * (WIDTH + CLASSES)])
        return base + x @ d.reshape(CLASSES, WIDTH).T + v @ m.reshape(CLASSES, CLASSES).T + e

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        scale = np.repeat([s2, t2, 1.0], [CLASSES * WIDTH, CLASSES**2, CLASSES])
        said = log_softmax(logits(flat), axis=1)
        wrong = (np.exp(said) - np.eye(CLASSES)[labels]) / len(labels)
        gradient = np.concatenate([(wrong.T @ x).ravel(), (wrong.T @ v).ravel(), wrong.sum(axis=0)])
        loss = -said[np.arange(len(labels)), labels].mean() + strength / 2 * (scale * flat**2).sum()
        return loss, gradient + strength * scale * flat

    best = minimize(objective, np.zeros(CLASSES * (WIDTH + CLASSES + 1)), jac=True, options={"gtol": 1e-9})
    np.testing.assert_allclose((vectors @ fitted.weight.T + fitted.bias).numpy(), logits(best.x), atol=2e-4)


def test_the_strongest_pull_leaves_the_shared_head_with_the_proportions(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, labels, _ = site(0, 30)
    (weight, bias), offset = shared(), torch.tensor([1.0, -1.0, 0.5, 0.0])
    monkeypatch.setattr(own_head, "_chosen", lambda *_: 1e9)
    fitted = fit_own_head(vectors, labels, weight, bias, offset, np.random.default_rng(0))
    torch.testing.assert_close(fitted.weight, weight, atol=1e-6, rtol=0)
    torch.testing.assert_close(fitted.bias, bias + offset, atol=1e-6, rtol=0)


def test_a_device_with_few_examples_takes_no_fit() -> None:
    vectors, labels, _ = site(0, FEWEST - 1, swapped=True)
    weight, bias = shared()
    fitted = fit_own_head(vectors, labels, weight, bias, None, np.random.default_rng(0))
    assert fitted.strength is None
    assert fitted.weight is weight
    assert torch.equal(fitted.bias, bias)


def test_a_site_that_swaps_two_labels_learns_it() -> None:
    before, after = scores(noise=0.0, swapped=True)
    assert before < 0.6
    assert after > before + 0.2


@pytest.mark.parametrize("examples", [30, 100])
def test_noisy_labels_are_not_fitted(examples: int) -> None:
    before, after = scores(noise=0.3, swapped=False, examples=examples)
    assert before > 0.8
    assert after > before - 0.01
