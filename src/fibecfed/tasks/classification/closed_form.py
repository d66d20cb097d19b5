"""Sums over a device's examples, and the head that the server makes of everybody's.

All of them are sums over examples, so secure aggregation can hide whose they are (docs/method.md section 8 [D]).
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from fibecfed.config import Config
from fibecfed.errors import RunFailed
from fibecfed.tasks.base import HEAD_BIAS, HEAD_WEIGHT, Sums

RIDGE_SCALE = 8.0  # logits per unit of the regression target, chosen on validation data


def sum_shapes(config: Config, hidden: int, classes: int) -> dict[str, tuple[int, ...]]:
    """The sums a device sends: label counts, and for a closed-form head what it is solved from. None wanted: {}."""
    result: dict[str, tuple[int, ...]] = {}
    if config.training.loss == "prior_corrected" or config.model.head_init != "random":
        result["label_counts"] = (classes,)
    if config.model.head_init == "ridge":
        result |= {"gram": (hidden + 1, hidden + 1), "moment": (hidden + 1, classes)}
    elif config.model.head_init == "class_means":
        result |= {"class_sums": (hidden, classes), "square_norm": (1,)}
    return result


def problem(found: Mapping[str, Tensor], examples: int) -> str | None:
    """Why sums cannot be those of ``examples`` examples; None if they can. What ``device_sums`` says must hold."""
    counts = found["label_counts"]
    if (counts < 0).any() or (counts != counts.round()).any() or float(counts.sum()) != examples:
        return f"its label counts are not whole numbers that add up to its {examples} examples"
    if "gram" in found:
        gram, moment = found["gram"], found["moment"]
        if not torch.allclose(gram, gram.T) or (gram.diagonal() < 0).any():
            return "its gram matrix is not symmetric with a diagonal of squares"
        if float(gram[-1, -1]) != examples or not torch.equal(moment[-1], counts):
            return "its gram matrix and moments are not those of its label counts"
    if "square_norm" in found and float(found["square_norm"]) < 0:
        return "its sum of squares is below 0"
    return None


def needs_features(wanted: Sums) -> bool:
    """Whether the backbone has to be asked; label counts alone do not."""
    return len(wanted) > 1


def device_sums(labels: Tensor, vectors: Tensor | None, wanted: Sums) -> dict[str, Tensor]:
    """The sums over one device's examples, float64; features h carry a constant 1 for the bias.

    ``labels`` (n,), ``vectors`` (n, d) where ``needs_features``.
    gram: sum h h^T (d+1, d+1); moment: sum h y^T (d+1, C), y one-hot; class_sums: sum h of each class (d, C);
    square_norm: sum ||h||^2 (1,).
    """
    (classes,) = wanted["label_counts"]
    onehot = torch.nn.functional.one_hot(labels, classes).double()
    found = {"label_counts": onehot.sum(dim=0)}
    if vectors is not None:
        features = vectors.double()
        if "gram" in wanted:
            features = torch.cat([features, torch.ones(len(features), 1, dtype=torch.float64)], dim=1)
            found |= {"gram": features.T @ features, "moment": features.T @ onehot}
        else:
            found |= {"class_sums": features.T @ onehot, "square_norm": features.square().sum()[None]}
    return found


def solve_head(config: Config, totals: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Head tensors from the summed statistics.

    ridge: least squares onto one-hot targets with penalty ``ridge_penalty`` times the features' mean square,
    centred and scaled to logits. class_means: (h . mu_c - ||mu_c||^2 / 2) / s^2, s^2 the mean squared distance to
    the class mean, with the log of the class's share. Source: project decision (docs/method.md section 8).
    """
    counts = totals["label_counts"].double()
    if config.model.head_init == "ridge":
        gram, moment = totals["gram"].double(), totals["moment"].double()
        width = len(gram) - 1
        penalty = config.model.ridge_penalty * float(gram.diagonal()[:width].mean())
        ridge = torch.full((width + 1,), penalty, dtype=torch.float64)
        ridge[-1] = 0.0  # the bias is not penalised
        try:
            solved = RIDGE_SCALE * torch.linalg.solve(gram + torch.diag(ridge), moment)
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
            raise RunFailed("The devices' feature sums cannot be solved for a head (singular gram matrix).") from None
        weight, bias = solved[:width].T, solved[width]
    else:
        means = totals["class_sums"].double() / counts.clamp_min(1)
        within = float(totals["square_norm"]) - float((counts * means.square().sum(dim=0)).sum())
        spread = max(within / float(counts.sum()), 1e-12)
        weight = means.T / spread
        bias = -means.square().sum(dim=0) / (2 * spread) + torch.log((counts + 1) / (counts + 1).sum())
    dtype = start[HEAD_WEIGHT].dtype
    return {HEAD_WEIGHT: weight.to(dtype).contiguous(), HEAD_BIAS: bias.to(dtype).contiguous()}
