"""Sums over a device's examples, and the head that the server makes of everybody's.

All of them are sums over examples, so secure aggregation over a fold of devices can hide whose they are
(docs/method.md section 8 [D]).
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fibecfed.config import Config
from fibecfed.errors import RunFailed
from fibecfed.tasks.base import HEAD_BIAS, HEAD_WEIGHT, Sums

RIDGE_SCALE = 8.0  # logits per unit of the regression target, chosen on validation data
PENALTIES = tuple(10 ** (half / 2) for half in range(-6, 5))  # tried by ridge_penalty=auto, 0.001 to 100
UNTRIED_PENALTY = 1.0  # of ridge_penalty=auto where no devices can be held out; near the best of those measured
_ROUNDING = 1e-3  # relative, of what float32 sums may contradict one another by


def sum_shapes(config: Config, hidden: int, classes: int) -> dict[str, tuple[int, ...]]:
    """The sums a device sends: label counts, and for a closed-form head what it is solved from. None wanted: {}."""
    result: dict[str, tuple[int, ...]] = {}
    if config.training.loss == "prior_corrected" or config.model.solves_head:
        result["label_counts"] = (classes,)
    if config.model.head_init == "ridge":
        result |= {"triangle": ((hidden + 1) * (hidden + 2) // 2,), "moment": (hidden + 1, classes)}
    elif config.model.head_init == "class_means":
        result |= {"class_sums": (hidden, classes), "square_norm": (1,)}
    return result


def sum_dtype(name: str) -> torch.dtype:
    """Counts are exact; sums of features travel in float32, as the features themselves are."""
    return torch.float64 if name == "label_counts" else torch.float32


def problem(found: Mapping[str, Tensor], examples: int) -> str | None:
    """Why sums cannot be those of ``examples`` examples; None if they can. What ``device_sums`` says must hold."""
    counts = found["label_counts"]
    if (counts < 0).any() or (counts != counts.round()).any() or float(counts.sum()) != examples:
        return f"its label counts are not whole numbers that add up to its {examples} examples"
    if "triangle" in found:
        moment = found["moment"].double()
        gram = full(found["triangle"], len(moment))
        squares = gram.diagonal()
        tiny = 1e-6 * float(squares.max())  # squares so small that float32 has none of them
        norms = squares.clamp_min(0).sqrt()
        if (squares < 0).any() or (gram.abs() > (1 + _ROUNDING) * norms.outer(norms) + tiny).any():
            return "its gram matrix is not one of sums of products"
        ends = counts.float().double()
        if float(gram[-1, -1]) != float(torch.tensor(float(examples))) or not torch.equal(moment[-1], ends):
            return "its gram matrix and moments are not those of its label counts"
        # sum_i |h_i| <= sqrt(n sum_i h_i^2) bounds what rounding can have moved a sum by
        if ((moment.sum(dim=1) - gram[-1]).abs() > _ROUNDING * norms * examples**0.5 + tiny).any():
            return "its moments do not add up to the sums in its gram matrix"
    if "square_norm" in found:
        within = float(found["square_norm"]) - _between(found["class_sums"].double(), counts)
        if within < -_ROUNDING * float(found["square_norm"]) or (found["class_sums"][:, counts == 0] != 0).any():
            return "its sum of squares is below that of its class sums"
    return None


def needs_features(wanted: Sums) -> bool:
    """Whether the backbone has to be asked; label counts alone do not."""
    return len(wanted) > 1


def device_sums(labels: Tensor, vectors: Tensor | None, wanted: Sums) -> dict[str, Tensor]:
    """The sums over one device's examples, added in float64; features h carry a constant 1 for the bias.

    ``labels`` (n,), ``vectors`` (n, d) where ``needs_features``.
    triangle: the upper triangle of sum h h^T, row by row, ((d+1)(d+2)/2,); moment: sum h y^T (d+1, C), y one-hot;
    class_sums: sum h of each class (d, C); square_norm: sum ||h||^2 (1,).
    """
    (classes,) = wanted["label_counts"]
    onehot = torch.nn.functional.one_hot(labels, classes).double()
    found = {"label_counts": onehot.sum(dim=0)}
    if vectors is not None:
        features = vectors.double()
        if "triangle" in wanted:
            features = torch.cat([features, torch.ones(len(features), 1, dtype=torch.float64)], dim=1)
            rows, columns = torch.triu_indices(features.shape[1], features.shape[1])
            found |= {"triangle": (features.T @ features)[rows, columns], "moment": features.T @ onehot}
        else:
            found |= {"class_sums": features.T @ onehot, "square_norm": features.square().sum()[None]}
    return {name: tensor.to(sum_dtype(name)) for name, tensor in found.items()}


def full(triangle: Tensor, width: int) -> Tensor:
    """The symmetric (width, width) float64 matrix with this upper triangle."""
    matrix = torch.zeros(width, width, dtype=torch.float64)
    rows, columns = torch.triu_indices(width, width)
    matrix[rows, columns] = matrix[columns, rows] = triangle.double()
    return matrix


def solve_head(
    config: Config, folds: Sequence[Mapping[str, Tensor]], start: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], str]:
    """Head tensors from the sums of each fold of devices (at least one), and a sentence that says how.

    Source: project decision (docs/method.md section 8).
    """
    if config.model.head_init == "ridge":
        weight, bias, reason = _ridge(config.model.ridge_penalty, folds)
    else:
        weight, bias, reason = _class_means(folds)
    dtype = start[HEAD_WEIGHT].dtype
    return {HEAD_WEIGHT: weight.to(dtype).contiguous(), HEAD_BIAS: bias.to(dtype).contiguous()}, reason


def _ridge(penalty: float | str, folds: Sequence[Mapping[str, Tensor]]) -> tuple[Tensor, Tensor, str]:
    """Least squares onto one-hot labels, scaled to logits: weight (C, d), bias (C,).

    ``penalty`` is relative to the features' mean square; auto: the one of ``PENALTIES`` with the lowest squared error
    on folds that the regression did not see.
    """
    moments = [sums["moment"].double() for sums in folds]
    grams = [full(sums["triangle"], len(moment)) for sums, moment in zip(folds, moments, strict=True)]
    gram, moment = torch.stack(grams).sum(dim=0), torch.stack(moments).sum(dim=0)
    examples, width = sum(float(sums["label_counts"].sum()) for sums in folds), len(moment)
    if penalty != "auto":
        chosen, how = float(penalty), "as set"
    elif len(folds) < 2:
        chosen, how = UNTRIED_PENALTY, "not chosen by held-out error, since all examples are on one device"
    else:
        errors = torch.zeros(len(PENALTIES), dtype=torch.float64)
        for one_gram, one_moment, sums in zip(grams, moments, folds, strict=True):
            for position, found in enumerate(_solutions(gram - one_gram, moment - one_moment, PENALTIES)):
                fitted = (found * (one_gram @ found)).sum() - 2 * (found * one_moment).sum()
                errors[position] += fitted + sums["label_counts"].sum()
        best = int(errors.argmin())
        chosen = PENALTIES[best]
        how = f"chosen by the squared error on {len(folds)} held-out folds of devices, {errors[best] / examples:.3f}"
    (solved,) = _solutions(gram, moment, (chosen,))
    reason = f"ridge with penalty {chosen:.3g}, {how}"
    if examples <= width:
        reason += f"; its {width} features outnumber the {examples:.0f} examples, and only the penalty holds it"
    return RIDGE_SCALE * solved[:-1].T, RIDGE_SCALE * solved[-1], reason


def _solutions(gram: Tensor, moment: Tensor, penalties: Sequence[float]) -> list[Tensor]:
    """(d+1, C) for each penalty; the bias is not penalised, so the features are centred first."""
    width, examples = len(gram) - 1, gram[-1, -1]
    means = gram[:width, -1] / examples
    centred = gram[:width, :width] - examples * means.outer(means)
    square = float(gram.diagonal()[:width].mean())
    try:
        values, vectors = torch.linalg.eigh(centred)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        square = 0.0
    if not square > 0:
        raise RunFailed("The devices' feature sums cannot be solved for a head (singular gram matrix).") from None
    turned = vectors.T @ (moment[:width] - means.outer(moment[-1]))
    result = []
    for penalty in penalties:
        weight = vectors @ (turned / (values.clamp_min(0) + penalty * square)[:, None])
        bias = moment[-1] / examples - weight.T @ means
        result.append(torch.cat([weight, bias[None]]))
    return result


def _class_means(folds: Sequence[Mapping[str, Tensor]]) -> tuple[Tensor, Tensor, str]:
    """kappa (h . mu_c - ||mu_c||^2 / 2) + log(share of class c), kappa = rho / v: weight (C, d), bias (C,).

    v is the variance within classes along the directions in which their means differ, from how the means of folds
    differ; rho, the part of the means' spread that is no sampling error. Without two folds of one class
    v = s^2 / d, the variance of a dimension.
    """
    counts = torch.stack([sums["label_counts"].double() for sums in folds])  # (F, C)
    sums = torch.stack([fold["class_sums"].double() for fold in folds])  # (F, d, C)
    total = counts.sum(dim=0)
    means = sums.sum(dim=0) / total.clamp_min(1)
    share = total / total.sum()
    apart = means - (means * share).sum(dim=1, keepdim=True)  # (d, C)
    spread = float((share * apart.square().sum(dim=0)).sum())
    squares = sum(float(fold["square_norm"]) for fold in folds)
    within = max(0.0, squares - _between(sums.sum(dim=0), total)) / float(total.sum())  # s^2
    moved = sums / counts.clamp_min(1)[:, None] - means  # of a fold's class means; (F, d, C)
    along = torch.einsum("fdc,de->fec", moved, apart).square()  # e: the direction of class e
    deviations = float((along * share[:, None] * counts[:, None]).sum())
    freedom = float(((counts > 0).sum(dim=0) - 1).clamp_min(0).sum())
    if spread > 0 and freedom and deviations > 0:
        variance, how = deviations / freedom / spread, "between folds of devices"
    else:
        variance, how = max(within / len(means), 1e-12), "of one dimension, since no class is in two folds of devices"
    present = int((total > 0).sum())
    error = within * (present - 1) / float(total.sum())
    kept = max(0.0, 1 - error / spread) if spread > 0 else 0.0
    scale = kept / variance
    bias = -scale * means.square().sum(dim=0) / 2 + torch.log((total + 1) / (total + 1).sum())
    reason = f"class means with scale {scale:.3g}: variance {variance:.3g} {how}, {kept:.0%} of their spread is kept"
    return scale * means.T, bias, reason


def _between(class_sums: Tensor, counts: Tensor) -> float:
    """sum_c n_c ||mu_c||^2, of class sums (d, C)."""
    return float((class_sums.square().sum(dim=0) / counts.clamp_min(1)).sum())
