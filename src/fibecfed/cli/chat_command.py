"""What `chat` does: at a terminal question and answer in turn, from a pipe a line in and a JSON line out."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from fibecfed.cli.answering_command import Generation
from fibecfed.errors import InputError
from fibecfed.runs.answering import MAX_NEW_TOKENS, load_language_model
from fibecfed.runs.chatting import Chat
from fibecfed.screen import say

_ASKING = "> "


def chat(directory: Path, device: str | None, asked: Generation, aside: Console) -> None:
    """Answer line after line, until the input ends; what is to be known beside the answers goes to ``aside``.

    Raises InputError for a line from a pipe that cannot be answered, which it names; at a terminal that is said, and
    the conversation goes on without it.
    """
    model = load_language_model(directory, device)
    most = MAX_NEW_TOKENS if asked.max_new_tokens is None else asked.max_new_tokens
    conversation = Chat(model, most, asked.temperature or 0.0, asked.seed or 0)
    if sys.stdin.isatty():
        _at_a_terminal(conversation, aside)
    else:
        _from_a_pipe(conversation, aside)


def _at_a_terminal(conversation: Chat, aside: Console) -> None:
    say(aside, "Ctrl-D ends the conversation.")
    while True:
        try:
            line = input(_ASKING)
        except EOFError:
            print()
            return
        if not line.strip():
            continue
        before = conversation.forgotten
        try:
            conversation.ask(line, _write)
            print()
        except InputError as error:
            say(aside, str(error))
        _say_what_is_forgotten(conversation, before, aside)


def _from_a_pipe(conversation: Chat, aside: Console) -> None:
    ascii_only = "utf" not in (sys.stdout.encoding or "").lower()
    for number, line in _lines():
        before = conversation.forgotten
        try:
            answer = conversation.ask(line)
        except InputError as error:
            raise InputError(f"Standard input line {number}: {error}") from None
        _say_what_is_forgotten(conversation, before, aside)
        print(json.dumps({"prompt": line, "response": answer}, ensure_ascii=ascii_only), flush=True)


def _lines() -> Iterator[tuple[int, str]]:
    """The lines of standard input that are not empty, as they come, with their numbers."""
    for number, raw in enumerate(sys.stdin.buffer, 1):
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError:
            raise InputError(f"Standard input line {number} is not UTF-8 text; convert it.") from None
        if line.strip():
            yield number, line


def _write(piece: str) -> None:
    sys.stdout.write(piece)
    sys.stdout.flush()


def _say_what_is_forgotten(conversation: Chat, before: int, aside: Console) -> None:
    """Once, when it happens first."""
    if conversation.forgotten and not before:
        say(
            aside,
            f"The conversation is longer than the model's {conversation.model.places} places; its oldest turns are "
            "forgotten from here on.",
        )
