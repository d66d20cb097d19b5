"""Hidden states under the lowest layer that trains, kept between passes: what never changes is computed once.

A state is kept with all it is computed from: its example, the lower layers' parameters, and the number of examples B
and of tokens T of its pass. What is left are its place in the batch and the other examples there. No bit may depend on
them, so a shape is tried before it is served: a batch is computed with its examples in other places, and has to come to
what is kept. Shapes that fail are computed each time. So training has the same bits with and without a cache, whatever
it holds. Source: docs/method.md section 9 [D].
"""

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fibecfed.data import TokenizedSet
from fibecfed.models import below
from fibecfed.tasks import Batch
from fibecfed.tuning import Layout

_log = logging.getLogger(__name__)

Shape = tuple[int, int, int]  # the layer that the states enter, B and T
_Key = tuple[str, int, int, int]  # digest of the lower layers, example, B, T


@dataclass(frozen=True)
class Pass:
    """One forward pass: the examples ``batch[start:stop]``, padded to the T of the whole batch."""

    batch: np.ndarray
    start: int
    stop: int
    tokens: int

    @property
    def examples(self) -> np.ndarray:
        """(B,) positions in the training set."""
        return self.batch[self.start : self.stop]


class HiddenStates:
    """A bounded store of the hidden states (T, d) of examples, the longest unused going first.

    ``limit``: bytes; 0 keeps nothing. ``on_other_layers`` is called where the layers do not give a vector for each
    token of each text.
    """

    def __init__(
        self,
        model: Any,
        blocks: Sequence[nn.Module],
        layout: Layout,
        data: TokenizedSet,
        limit: int,
        on_other_layers: Callable[[], None] = lambda: None,
    ) -> None:
        self._model, self._blocks, self._layout, self._data = model, blocks, layout, data
        self._limit, self._on_other_layers = limit, on_other_layers
        self._states: OrderedDict[_Key, Tensor] = OrderedDict()
        self._bytes = 0
        self._returned = [0] * len(blocks)  # what ``below`` notes of each layer
        self._same: dict[Shape, bool] = {}  # whether a shape's states depend on nothing else, once it was tried
        # A prompt or the like in front of the layers trains, too, and changes what passes through all of them.
        self._fixed_below = all(p.role == "head" for p in layout if p.layer is None)

    def lowest(self, trained: Mapping[str, Any]) -> int:
        """The lowest layer with a parameter that trains; L if there is none, 0 if what lies below them all does."""
        if not self._fixed_below:
            return 0
        layers = [p.layer for p in self._layout if p.layer is not None and p.name in trained]
        return min(layers, default=len(self._blocks))

    @contextmanager
    def serving(
        self,
        trained: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        batches: Sequence[np.ndarray],
        micro: int | None,
        device: torch.device,
    ) -> Iterator[None]:
        """The model's next forward passes are these batches', in ``micro``-batches if they are set.

        Each gives what it would give, computed or not.

        The model holds ``tensors``, of which ``trained`` will move.
        """
        layer = self.lowest(trained)
        if not (self._limit and layer and batches):
            yield
            return
        passes = _passes_of(batches, self._data.lengths, micro)
        digest = self._digest(layer, tensors)
        self._try(digest, layer, passes, device)
        waiting, current = iter(passes), [passes[0]]

        def known() -> Tensor | None:
            current[0] = next(waiting)
            return self._known(digest, layer, current[0])

        def keep(hidden: Tensor) -> None:
            self._keep(digest, current[0], hidden)

        with below(self._blocks[:layer], known, keep, self._returned):
            yield

    def expected_bytes(self, tokens: int) -> int:
        """What states of so many tokens will take, going by those that are kept now; 0 where none are."""
        kept = sum(len(state) for state in self._states.values())
        return min(self._limit, self._bytes * tokens // kept) if kept else 0

    def _known(self, digest: str, layer: int, of: Pass) -> Tensor | None:
        """(B, T, d) of a pass whose shape was tried; None if it has to be computed."""
        if not self._same.get(_shape(layer, of)):
            return None
        keys = _keys(digest, of)
        if not all(key in self._states for key in keys):
            return None
        for key in keys:
            self._states.move_to_end(key)
        return torch.stack([self._states[key] for key in keys])

    def _try(self, digest: str, layer: int, passes: Sequence[Pass], device: torch.device) -> None:
        """Try each shape of which all that is needed is kept: the examples of a pass, each in the next one's place."""
        for of in passes:
            shape, keys = _shape(layer, of), _keys(digest, of)
            if shape in self._same or not all(key in self._states for key in keys):
                continue
            moved = of.batch.copy()
            moved[of.start : of.stop] = np.roll(of.examples, 1)
            computed = self._computed(self._data.batch(moved).rows(of.start, of.stop).to(device), layer)
            kept = torch.stack([self._states[key] for key in keys])
            self._same[shape] = torch.equal(torch.roll(computed, -1, 0), kept)
            if not self._same[shape]:
                _log.info(
                    "Hidden states of %d x %d tokens are computed each time: here they depend on the batch.", *shape[1:]
                )

    def _computed(self, batch: Batch, layer: int) -> Tensor:
        found: list[Tensor] = []
        with torch.no_grad(), below(self._blocks[:layer], lambda: None, found.append, self._returned, ends=True):
            self._model(batch)
        return found[0]

    def _keep(self, digest: str, of: Pass, hidden: Tensor) -> None:
        if not self._limit:
            return
        if hidden.shape[:2] != (len(of.examples), of.tokens):
            self._limit = 0
            self._on_other_layers()
            return
        for key, row in zip(_keys(digest, of), hidden.detach(), strict=True):
            if key not in self._states:
                self._states[key] = row.clone()
                self._bytes += row.numel() * row.element_size()
        while self._bytes > self._limit:
            _, gone = self._states.popitem(last=False)
            self._bytes -= gone.numel() * gone.element_size()

    def _digest(self, layer: int, tensors: Mapping[str, Tensor]) -> str:
        digest = hashlib.sha256(str(layer).encode())
        for p in self._layout:
            if p.layer is not None and p.layer < layer:
                digest.update(tensors[p.name].contiguous().numpy().tobytes())
        return digest.hexdigest()


def _passes_of(batches: Sequence[np.ndarray], lengths: np.ndarray, micro: int | None) -> list[Pass]:
    return [
        Pass(batch, start, min(start + (micro or len(batch)), len(batch)), int(lengths[batch].max()))
        for batch in batches
        for start in range(0, len(batch), micro or len(batch))
    ]


def _shape(layer: int, of: Pass) -> Shape:
    return layer, len(of.examples), of.tokens


def _keys(digest: str, of: Pass) -> list[_Key]:
    size = len(of.examples)
    return [(digest, position, size, of.tokens) for position in of.examples.tolist()]
