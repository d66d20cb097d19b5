"""Hidden states under the lowest layer that trains, kept between passes: what never changes is computed once.

Values are a function of the device's examples and the lower layers' parameters only, whatever ran before, so that a
resumed run computes the same ones. Against training without the cache they differ in the last bits, because batches
are padded differently. Source: docs/method.md section 9 [D].
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fibecfed.data import TokenizedSet, evaluation_batches
from fibecfed.errors import InputError
from fibecfed.models import entering, starting_at
from fibecfed.training.local import batch_sizes
from fibecfed.tuning import Layout

FILL_BATCH = 32  # examples of one filling pass


@dataclass(frozen=True)
class _Entry:
    positions: np.ndarray  # (n,) examples, ascending
    offsets: np.ndarray  # (n+1,) rows of ``hidden`` of each example
    hidden: Tensor  # (tokens, d) what enters the lowest trained layer
    returned: tuple[int, ...]  # how long a tuple each lower layer returns; 0: none


class HiddenStates:
    """A bounded store of hidden states, whole devices at a time, the longest unused going first."""

    def __init__(self, model: Any, blocks: Sequence[nn.Module], layout: Layout, data: TokenizedSet, limit: int):
        self._model, self._blocks, self._layout, self._data = model, blocks, layout, data
        self._limit = limit  # bytes
        self._entries: OrderedDict[str, _Entry] = OrderedDict()

    def lowest(self, trained: Mapping[str, Any]) -> int:
        """The lowest layer with a parameter that trains; L if there is none."""
        layers = [p.layer for p in self._layout if p.layer is not None and p.name in trained]
        return min(layers, default=len(self._blocks))

    def get(
        self, examples: np.ndarray, layer: int, tensors: Mapping[str, Tensor], device: torch.device
    ) -> tuple[_Entry | None, list[tuple[int, int]]]:
        """What enters ``layer`` for these examples, and the (B, T) of the passes this took now.

        None if nothing is below the layer or the examples alone exceed the limit.
        """
        if not 0 < layer < len(self._blocks):
            return None, []
        key = self._key(examples, layer, tensors)
        if key in self._entries:
            self._entries.move_to_end(key)
            return self._entries[key], []
        width = int(self._model.backbone.config.hidden_size)
        if 4 * width * int(self._data.lengths[examples].sum()) > self._limit:
            return None, []
        batches = list(evaluation_batches(examples, self._data.lengths[examples], FILL_BATCH))
        entry = self._fill(examples, batches, layer, device)
        self._entries[key] = entry
        while sum(_bytes(e) for e in self._entries.values()) > self._limit:
            self._entries.popitem(last=False)
        return entry, batch_sizes(batches, self._data.lengths)

    def _key(self, examples: np.ndarray, layer: int, tensors: Mapping[str, Tensor]) -> str:
        digest = hashlib.sha256(examples.tobytes())
        digest.update(str(layer).encode())
        for p in self._layout:
            if p.layer is not None and p.layer < layer:
                digest.update(tensors[p.name].contiguous().numpy().tobytes())
        return digest.hexdigest()

    def _fill(self, examples: np.ndarray, batches: Sequence[np.ndarray], layer: int, device: torch.device) -> _Entry:
        found: dict[int, Tensor] = {}
        returned: tuple[int, ...] = ()
        for chosen in batches:
            batch = self._data.batch(chosen).to(device)
            with torch.no_grad():
                entered = entering(partial(self._model, batch), self._blocks, layer)
            if entered.hidden.shape[:2] != batch.input_ids.shape:
                raise InputError(
                    "training.cache_mb needs layers that take one vector for each token of each text; those of a "
                    f"{self._model.backbone.config.model_type} do not. Set training.cache_mb=0."
                )
            returned = entered.returned
            for row, position in enumerate(chosen):
                found[int(position)] = entered.hidden[row, : int(self._data.lengths[position])].clone()
        ordered = np.sort(examples)
        offsets = np.concatenate([[0], np.cumsum(self._data.lengths[ordered])])
        return _Entry(ordered, offsets, torch.cat([found[int(i)] for i in ordered]), returned)

    @contextmanager
    def skipping(self, entry: _Entry, layer: int, passes: Sequence[tuple[np.ndarray, int]]) -> Iterator[None]:
        """Forward passes start at ``layer`` with what is stored; ``passes`` are their examples and T, in turn."""
        waiting = iter(passes)
        with starting_at(self._blocks, layer, entry.returned, lambda: _padded(entry, *next(waiting))):
            yield


def _padded(entry: _Entry, chosen: np.ndarray, width: int) -> Tensor:
    """(B, T, d) of the examples, zeros behind their ends."""
    hidden = entry.hidden.new_zeros(len(chosen), width, entry.hidden.shape[1])
    for row, place in enumerate(np.searchsorted(entry.positions, chosen)):
        own = entry.hidden[entry.offsets[place] : entry.offsets[place + 1]]
        hidden[row, : len(own)] = own
    return hidden


def _bytes(entry: _Entry) -> int:
    return entry.hidden.numel() * entry.hidden.element_size()
