"""Forward passes that stop before a transformer layer, or that start at one."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Entering:
    """What enters a layer, (B, T, d), and how long a tuple each layer below it returns (0: no tuple)."""

    hidden: Tensor
    returned: tuple[int, ...]


class _Reached(Exception):
    """The forward pass has come to the layer whose input is wanted."""


def entering(call: Callable[[], Any], stack: Sequence[nn.Module], layer: int) -> Entering:
    """What enters ``stack[layer]`` in the forward pass that ``call`` makes; the pass ends there."""
    returned = [0] * layer
    found: list[Tensor] = []

    def stop(_: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        found.append(arguments[0] if arguments else keywords["hidden_states"])
        raise _Reached

    def note(number: int) -> Callable[..., None]:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            returned[number] = 0 if isinstance(output, Tensor) else len(output)

        return hook

    hooks = [stack[layer].register_forward_pre_hook(stop, with_kwargs=True)]
    hooks += [stack[number].register_forward_hook(note(number)) for number in range(layer)]
    try:
        with suppress(_Reached):
            call()
    finally:
        for hook in hooks:
            hook.remove()
    return Entering(found[0], tuple(returned))


@contextmanager
def starting_at(
    stack: Sequence[nn.Module], layer: int, returned: Sequence[int], supply: Callable[[], Tensor]
) -> Iterator[None]:
    """Forward passes start at ``stack[layer]`` with what ``supply`` gives; the layers below let anything through."""

    def enter(_: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        hidden = supply()
        if arguments:
            return (hidden, *arguments[1:]), keywords
        return arguments, {**keywords, "hidden_states": hidden}

    before = [block.__dict__.get("forward") for block in stack[:layer]]
    hook = stack[layer].register_forward_pre_hook(enter, with_kwargs=True)
    try:
        for number in range(layer):
            stack[number].forward = _passing(returned[number])  # type: ignore[method-assign]
        yield
    finally:
        hook.remove()
        for block, forward in zip(stack, before, strict=False):
            block.__dict__.pop("forward", None)  # the class's own shows again
            if forward is not None:
                block.forward = forward  # type: ignore[method-assign]


@contextmanager
def below(
    lower: Sequence[nn.Module],
    known: Callable[[], Tensor | None],
    keep: Callable[[Tensor], None],
    returned: list[int],
    ends: bool = False,
) -> Iterator[None]:
    """Forward passes ask ``known`` what comes out of these layers; None: it is computed and given to ``keep``.

    ``lower``: at least one layer, lowest first. What is known is (B, T, d). ``returned``: how long a tuple each layer
    returns, 0: no tuple; a computed pass writes it there. ``ends``: passes end behind these layers.
    """
    found: list[Tensor | None] = [None]

    def stepping(number: int, own: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*inputs: Any, **settings: Any) -> Any:
            last = number == len(lower) - 1
            if number == 0:
                found[0] = known()
            if found[0] is not None:
                passed = found[0] if last else inputs[0] if inputs else settings["hidden_states"]
                return (passed, *[None] * (returned[number] - 1)) if returned[number] else passed
            output = own(*inputs, **settings)
            returned[number] = 0 if isinstance(output, Tensor) else len(output)
            if last:
                keep(output if isinstance(output, Tensor) else output[0])
                if ends:
                    raise _Reached
            return output

        return forward

    before = [block.__dict__.get("forward") for block in lower]
    try:
        for number, block in enumerate(lower):
            block.forward = stepping(number, block.forward)  # type: ignore[method-assign]
        with suppress(_Reached):
            yield
    finally:
        for block, forward in zip(lower, before, strict=True):
            block.__dict__.pop("forward", None)  # the class's own shows again
            if forward is not None:
                block.forward = forward  # type: ignore[method-assign]


def _passing(returned: int) -> Callable[..., Any]:
    def forward(hidden_states: Tensor, *_: Any, **__: Any) -> Any:
        return (hidden_states, *[None] * (returned - 1)) if returned else hidden_states

    return forward
