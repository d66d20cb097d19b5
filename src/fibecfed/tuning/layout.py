"""What is trained, as data: the names, shapes, layers and roles of a model's trainable parameters."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Parameter:
    """One trainable tensor. ``layer`` is 0-based, None outside the transformer stack (head, prompt)."""

    name: str
    shape: tuple[int, ...]
    layer: int | None
    role: str  # "lora_A", "lora_B", "lora_E", "head", ...

    @property
    def size(self) -> int:
        """Number of entries."""
        product = 1
        for side in self.shape:
            product *= side
        return product


@dataclass(frozen=True)
class Layout:
    """All trainable parameters in one fixed order, and how many transformer layers the backbone has.

    ``outputs``: of the head, whatever its form; ``groups``: that an example can be of.
    """

    parameters: tuple[Parameter, ...]
    layers: int
    outputs: int = 1
    groups: int = 1

    def __iter__(self) -> Iterator[Parameter]:
        return iter(self.parameters)

    def __len__(self) -> int:
        return len(self.parameters)

    @property
    def names(self) -> tuple[str, ...]:
        """Parameter names in order."""
        return tuple(p.name for p in self.parameters)

    @property
    def size(self) -> int:
        """Entries of all parameters together."""
        return sum(p.size for p in self.parameters)

    def only(self, names: Iterable[str]) -> "Layout":
        """The layout of some of the parameters, order kept."""
        wanted = set(names)
        return Layout(tuple(p for p in self.parameters if p.name in wanted), self.layers, self.outputs, self.groups)

    def select(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """This layout's tensors out of a larger mapping, in order. KeyError if one is missing."""
        return {p.name: tensors[p.name] for p in self.parameters}
