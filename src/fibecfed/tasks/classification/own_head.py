"""A head of a device's own, fitted on its own features: convex, without a round, pulled towards the shared head.

Source: project decision (docs/method.md section 8 [D]).
"""

import numpy as np
import torch
from torch import Tensor

from fibecfed.tasks.base import FittedHead

STRENGTHS = (0.3, 0.1, 0.03, 0.01, 0.003, 0.0003)  # lambda, strongest pull first
FOLDS = 5
FEWEST = 2 * FOLDS  # examples; with fewer a device takes no fit
_STEPS = 1000
_ERRORS = 1.25  # standard errors by which a fit must be better than none, chosen on validation data
_TEMPERS = (1.0, 0.7, 0.5, 0.35, 0.25, 0.15)  # of the logits without a fit
_CHOICE, _FINAL = 1e-5, 1e-12  # squared length of the last step, in the metric of the curvature bound


def fit_own_head(
    vectors: Tensor, labels: Tensor, weight: Tensor, bias: Tensor, offset: Tensor | None, rng: np.random.Generator
) -> FittedHead:
    """The head with the ``offset`` (C,) in its bias, moved as far as held-out folds of the device support.

    ``vectors`` (n, d), ``labels`` (n,), ``weight`` W (C, d), ``bias`` (C,). Let x be the vectors about their mean, V
    the rows of W about theirs, s^2 and t^2 the mean of ||x||^2 and of ||V x||^2. A change D x + M V x + e of the logits
    is found that minimises

        mean cross-entropy + lambda / 2 (s^2 ||D||^2 + t^2 ||M||^2 + ||e||^2)

    M is for sites that use labels in another way: it takes few examples to learn. Stratified folds of the device's
    own training examples choose lambda: that of the lowest held-out loss, if it is below the loss without a fit by
    1.25 standard errors of their difference (paired, over examples), else there is no fit. Whether a device's labels
    mean something else is doubtful on few examples, how much is not once they do. The logits without a fit are
    tempered as suits them best: where labels are noisy, a fit gains by being less sure, and decides no better. The
    shared model was trained on these examples, which flatters the shared head; fits start from it and share that.
    """
    offset = torch.zeros_like(bias) if offset is None else offset
    moved = bias + offset
    if len(labels) < FEWEST:
        return FittedHead(weight, moved, None)
    raw, onehot = vectors.double().numpy(), np.eye(len(bias))[labels.numpy()]
    base = raw @ weight.double().numpy().T + moved.double().numpy()
    middle = raw.mean(axis=0)
    said = weight.double().numpy() - weight.double().numpy().mean(axis=0)  # (C, d): what the shared head looks at
    maps = np.concatenate([_of_size_one(raw - middle, np.eye(raw.shape[1])), _of_size_one(raw - middle, said)])
    features = np.concatenate([(raw - middle) @ maps.T, np.ones((len(raw), 1))], axis=1)  # (n, d + C + 1)
    left, values, right = np.linalg.svd(features, full_matrices=False)
    axes = left * values  # (n, r): the features in coordinates of their own span, where the penalty is the same
    coarse = np.float32  # for the choice it is enough
    strength = _chosen(axes.astype(coarse), onehot.astype(coarse), base.astype(coarse), rng)
    if strength is None:
        return FittedHead(weight, moved, None)
    everything = np.ones((1, len(labels)))
    (found,) = _solve(axes, everything, onehot, base, np.array([strength]), _FINAL)
    change = found.T @ right  # (C, d + C + 1)
    turn = change[:, :-1] @ maps
    return FittedHead(
        weight + torch.from_numpy(turn).to(weight.dtype),
        moved + torch.from_numpy(change[:, -1] - turn @ middle).to(bias.dtype),
        strength,
    )


def _of_size_one(vectors: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The matrix over the root mean square size of what it makes of the vectors (n, d)."""
    return matrix / max(float(np.sqrt(np.square(vectors @ matrix.T).sum(axis=1).mean())), 1e-12)


def _chosen(axes: np.ndarray, onehot: np.ndarray, base: np.ndarray, rng: np.random.Generator) -> float | None:
    """The strength that held-out folds choose; None for no fit."""
    fold = _folds(onehot.argmax(axis=1), rng)
    inside = (fold[None] != np.arange(FOLDS)[:, None]).astype(axes.dtype)  # (F, n)
    strengths = np.array(STRENGTHS, dtype=axes.dtype)
    fits = _solve(axes, np.repeat(inside, len(strengths), 0), onehot, base, np.tile(strengths, FOLDS), _CHOICE)
    logits = base + axes @ fits  # (F x S, n, C)
    losses = -_log_softmax(logits.reshape(FOLDS, len(strengths), *base.shape))
    held_out = (losses[fold, :, np.arange(len(fold))] * onehot[:, None]).sum(axis=-1)  # (n, S)
    tempered = [-(_log_softmax(temper * base) * onehot).sum(axis=-1) for temper in _TEMPERS]
    none = min(tempered, key=lambda losses: float(losses.mean()))
    best = int(held_out.mean(axis=0).argmin())
    gain = none - held_out[:, best]
    error = gain.std(ddof=1) / np.sqrt(len(gain))
    return STRENGTHS[best] if gain.mean() > _ERRORS * error else None


def _folds(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(n,) the fold of each example: label after label, dealt in turn."""
    order = rng.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    fold = np.empty(len(labels), dtype=np.int64)
    fold[order] = np.arange(len(labels)) % FOLDS
    return fold


def _solve(
    axes: np.ndarray, inside: np.ndarray, onehot: np.ndarray, base: np.ndarray, strengths: np.ndarray, tolerance: float
) -> np.ndarray:
    """(P, r, C): the changes that minimise P problems, each with its examples ``inside`` (P, n) and its strength.

    Cross-entropy has at most half the curvature of the squares (Boehning 1992). Steps in the metric of that bound,
    accelerated and restarted where they turn back (O'Donoghue and Candes 2015).
    """
    share = inside / inside.sum(axis=1, keepdims=True)
    curvature = 0.5 * np.einsum("nr,pn,ns->prs", axes, share, axes, optimize=True)
    inverse = np.linalg.inv(curvature + strengths[:, None, None] * np.eye(axes.shape[1], dtype=axes.dtype))
    found = np.zeros((len(inside), axes.shape[1], base.shape[1]), dtype=axes.dtype)
    ahead, pace = found, np.ones(len(inside), dtype=axes.dtype)
    for _ in range(_STEPS):
        wrong = (np.exp(_log_softmax(base + axes @ ahead)) - onehot) * share[:, :, None]
        gradient = axes.T @ wrong + strengths[:, None, None] * ahead
        step = inverse @ gradient
        after = ahead - step
        back = np.einsum("prc,prc->p", gradient, after - found) > 0
        if np.einsum("prc,prc->p", gradient, step).max() < tolerance:
            return after
        faster = np.where(back, 1.0, (1 + np.sqrt(1 + 4 * pace**2)) / 2).astype(axes.dtype)
        momentum = np.where(back, 0.0, (pace - 1) / faster).astype(axes.dtype)
        ahead, found, pace = after + momentum[:, None, None] * (after - found), after, faster
    return found


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
