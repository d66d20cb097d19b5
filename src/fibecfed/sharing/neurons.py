"""Which rows of a device's own LoRA matrices it trains: momentum Fisher, summed over each neuron."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fibecfed.errors import InputError, RunFailed
from fibecfed.tuning.layout import Layout, Parameter

RowChooser = Literal["fisher", "random", "dense", "none"]


class MomentumFisher:
    """F <- gamma F + (1 - gamma) g*g over mini-batch gradients g, from 0, for every entry of a layout.

    No bias correction: (1 - gamma^t) is one factor for all entries and changes no ranking.
    Source: docs/method.md section 6 [P], gamma = 0.9 [D].
    """

    def __init__(self, layout: Layout, gamma: float = 0.9) -> None:
        if not 0 <= gamma < 1:
            raise InputError(f"The Fisher momentum gamma is {gamma}; it must be at least 0 and below 1.")
        self._layout = layout
        self._gamma = gamma
        self._values: dict[str, Tensor] = {}

    @property
    def values(self) -> dict[str, Tensor]:
        """F by parameter name, each in its parameter's shape; all zero before the first mini-batch."""
        return {p.name: self._values[p.name] if p.name in self._values else torch.zeros(p.shape) for p in self._layout}

    @torch.no_grad()
    def fold(self, gradients: Mapping[str, Tensor]) -> None:
        """Take in one mini-batch's gradients by parameter name; others are ignored. KeyError if one is missing.

        Gradients of a mean loss: those of a sum would count a short last batch for less than it should.
        """
        for name, gradient in self._layout.select(gradients).items():
            # At least float32: squares of small bf16 gradients would vanish.
            square = gradient.detach().to(torch.promote_types(gradient.dtype, torch.float32)).square()
            if name not in self._values:
                self._values[name] = torch.zeros_like(square)
            self._values[name].mul_(self._gamma).add_(square, alpha=1 - self._gamma)


def neuron_scores(fisher: Tensor) -> np.ndarray:
    """(rows,) float64: the sum of F over each row of one matrix; of a vector, F itself.

    A row is an output neuron of B (out, r) or a rank row of A (r, in). A vector (a bias, a normalisation's scale)
    has one entry a neuron [D]. Scores are comparable within one parameter only. Source: docs/method.md section 6 [P].
    Raises InputError if ``fisher`` is neither.
    """
    if fisher.dim() not in (1, 2):
        raise InputError(f"Neurons are rows of a matrix; a tensor of shape {tuple(fisher.shape)} has none.")
    return fisher.detach().cpu().double().reshape(len(fisher), -1).sum(dim=1).numpy()


def kept_rows(rows: int, density: float) -> int:
    """k = max(1, density * rows to the nearest integer, halves up).

    Source: docs/method.md section 6, rounding is a project decision. Raises InputError for density outside (0, 1].
    """
    if not 0 < density <= 1:
        raise InputError(f"The density is {density}; it must be above 0 and at most 1 (to keep no row, choose none).")
    return max(1, math.floor(density * rows + 0.5))


def top_rows(scores: np.ndarray, density: float) -> Tensor:
    """The ``kept_rows`` best rows, ascending int64 (k,); ties go to the lower index.

    Raises InputError as ``kept_rows``, RunFailed for scores that are not finite.
    """
    values = np.asarray(scores, dtype=np.float64)
    if not np.isfinite(values).all():
        raise RunFailed("The Fisher scores are not finite; no rows can be chosen by them.")
    best = np.argsort(-values, kind="stable")[: kept_rows(len(values), density)]
    return torch.from_numpy(np.sort(best).astype(np.int64))


@dataclass(frozen=True, eq=False)
class RowMask:
    """The rows of each matrix that train: name to ascending int64 (k,), k = 0 where nothing does."""

    rows: Mapping[str, Tensor]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RowMask):
            return NotImplemented
        return list(self.rows) == list(other.rows) and all(torch.equal(v, other.rows[n]) for n, v in self.rows.items())

    __hash__ = None  # type: ignore[assignment]

    def entries(self, layout: Layout) -> int:
        """How many numbers of the layout's parameters train; a parameter without a mask does not."""
        return sum(len(self.rows[p.name]) * (p.size // p.shape[0]) for p in layout if p.name in self.rows)

    def to_tensors(self) -> dict[str, Tensor]:
        """Tensors by name, for safetensors; ``RowMask(tensors)`` reads them back."""
        return {name: rows.contiguous() for name, rows in self.rows.items()}


def choose_rows(
    kind: RowChooser,
    layout: Layout,
    density: float,
    fisher: Mapping[str, Tensor] | None = None,
    rng: np.random.Generator | None = None,
) -> RowMask:
    """The rows that train in every matrix or vector of a layout (the parameters of the layers outside the GAL).

    fisher: the best of ``fisher`` (``MomentumFisher.values``) within each matrix; random: as many, drawn by
    ``rng`` in layout order; dense: all; none: no row. ``density`` counts for the first two.
    Source: docs/method.md section 6: fisher [P], density and the controls [D].
    Raises InputError for a parameter that is neither, or a missing ``fisher`` or ``rng``.
    """
    return RowMask({p.name: _rows(kind, p, density, fisher, rng) for p in layout})


def _rows(
    kind: RowChooser,
    parameter: Parameter,
    density: float,
    fisher: Mapping[str, Tensor] | None,
    rng: np.random.Generator | None,
) -> Tensor:
    if len(parameter.shape) not in (1, 2):
        raise InputError(f"'{parameter.name}' of shape {parameter.shape} is no matrix; it has no rows to choose.")
    rows = parameter.shape[0]
    if kind == "dense":
        return torch.arange(rows)
    if kind == "none":
        return torch.arange(0)
    if kind == "random":
        if rng is None:
            raise InputError("Choosing random rows needs a random generator.")
        drawn = rng.choice(rows, size=kept_rows(rows, density), replace=False)
        return torch.from_numpy(np.sort(drawn).astype(np.int64))
    if kind == "fisher":
        found = None if fisher is None else fisher.get(parameter.name)
        if found is None or tuple(found.shape) != parameter.shape:
            raise InputError(f"Choosing rows by Fisher needs the Fisher diagonal of '{parameter.name}'.")
        return top_rows(neuron_scores(found), density)
    raise InputError(f"'{kind}' chooses no rows; use fisher, random, dense or none.")
