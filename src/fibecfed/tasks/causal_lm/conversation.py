"""One example of a language model: turns of a conversation, whose last is a response."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fibecfed.errors import InputError, half_character

ROLES = ("system", "user", "assistant")
RESPONSE = "assistant"
_CALLS = ("tool_calls", "function_call")  # which would silently be left out


@dataclass(frozen=True)
class Turn:
    """What one side says. ``role`` is one of ``ROLES``."""

    role: str
    content: str


@dataclass(frozen=True)
class Conversation:
    """Turns in order; ``place`` says for messages where they stand (file and row)."""

    turns: tuple[Turn, ...]
    place: str

    @property
    def prompt(self) -> str:
        """All before the last response, one turn after another."""
        return "\n\n".join(turn.content for turn in self.turns[:-1])

    @property
    def response(self) -> str:
        """The last turn."""
        return self.turns[-1].content


def of_prompt(prompt: str, response: str, place: str, context: str = "", system: str = "") -> Conversation:
    """A prompt and its response; context stands behind the prompt, with an empty line between them."""
    asked = f"{prompt}\n\n{context}" if context else prompt
    first = (Turn("system", system),) if system else ()
    return Conversation((*first, Turn("user", asked), Turn(RESPONSE, response)), place)


def of_messages(cell: object, column: str, place: str) -> Conversation:
    """A cell with a list of turns, or with such a list written as JSON.

    Raises InputError naming the place, for what is no such list, and a conversation that no response ends.
    """
    turns = tuple(_turn(entry, number, column, place) for number, entry in enumerate(_listed(cell, column, place), 1))
    if any(turn.role == "system" for turn in turns[1:]):
        raise InputError(f"{place} has a system message that is not the first of '{column}'; put it first.")
    if turns[-1].role != RESPONSE:
        raise InputError(
            f"{place} ends '{column}' with the role '{turns[-1].role}'; the last turn must be the assistant's, "
            "which is what is learned."
        )
    if len(turns) == 1:
        raise InputError(f"{place} has a response only in '{column}'; put a turn of the user before it.")
    if turns[0].role == RESPONSE:
        raise InputError(
            f"{place} begins '{column}' with the role '{RESPONSE}', and a response answers something; put a turn of "
            "the user before it, or remove it."
        )
    return Conversation(turns, place)


def _listed(cell: object, column: str, place: str) -> Sequence[Any]:
    if isinstance(cell, str):
        try:
            cell = json.loads(cell)
        except (ValueError, RecursionError):
            cell = None
    if not isinstance(cell, Sequence) or isinstance(cell, str | bytes) or not cell:
        raise InputError(
            f"{place} has no list of turns as '{column}'; it must be like "
            '[{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}].'
        )
    return cell


def _turn(entry: Any, number: int, column: str, place: str) -> Turn:
    if not isinstance(entry, Mapping) or not {"role", "content"} <= entry.keys():
        raise InputError(f"{place} has a turn {number} in '{column}' without role and content; each turn needs both.")
    role, content = entry["role"], entry["content"]
    called = next((key for key in _CALLS if entry.get(key)), None)
    if called is not None:
        raise InputError(
            f"{place} has '{called}' in turn {number} of '{column}', and calls of tools are not learned; write the "
            "call into the content, or remove it."
        )
    if role not in ROLES:
        raise InputError(f"{place} has the role {role!r} in turn {number} of '{column}'; roles are {', '.join(ROLES)}.")
    if not isinstance(content, str) or not content.strip():
        raise InputError(f"{place} has no text as the content of turn {number} of '{column}'; fill it in.")
    if (half := half_character(content)) is not None:
        raise InputError(f"{place} has {half} in turn {number} of '{column}'; remove it, or write the whole character.")
    return Turn(role, content)
