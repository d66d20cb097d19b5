"""How a conversation becomes one text: by the tokenizer's own chat template, else by a plain one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2.exceptions import TemplateError

from fibecfed.errors import InputError
from fibecfed.tasks.causal_lm.conversation import RESPONSE, Conversation, Turn

# Source: project decision; headings as Alpaca (Taori et al. 2023) has them, since base models know Markdown.
PLAIN_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] + '\\n\\n' }}"
    "{% elif message['role'] == 'user' %}{{ '### Instruction:\\n' + message['content'] + '\\n\\n' }}"
    "{% else %}{{ '### Response:\\n' + message['content'] + eos_token + '\\n\\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '### Response:\\n' }}{% endif %}"
)


_DATE = "strftime_now"  # what templates call for it


@dataclass(frozen=True)
class Rendered:
    """A conversation as one text, and [begin, end) of parts of it, in characters.

    ``responses``: what is learned, with what the template ends a response by. ``prompts``: what others say, without
    the template around it.
    """

    text: str
    responses: tuple[tuple[int, int], ...]
    prompts: tuple[tuple[int, int], ...]


def with_template(tokenizer: Any) -> None:
    """Give a tokenizer without a chat template the plain one, which is saved with it.

    Raises InputError for a tokenizer without an end token, which a response could not end with.
    """
    if tokenizer.eos_token is None:
        raise InputError(
            "The tokenizer has no end token, so that no response would ever end; set eos_token in its config."
        )
    if tokenizer.chat_template is None:
        tokenizer.chat_template = PLAIN_TEMPLATE


def note_on_template(tokenizer: Any) -> str | None:
    """What to know of the template: the plain one is shown, and one that writes a date is named; else None."""
    if _DATE in tokenizer.chat_template:
        return (
            "The tokenizer's chat template writes the date of the day, so that a run that goes on another day reads "
            "other tokens; set a chat_template without it to repeat runs."
        )
    if tokenizer.chat_template != PLAIN_TEMPLATE:
        return None
    shown = prompt_text(tokenizer, [Turn("user", "PROMPT")]) + f"RESPONSE{tokenizer.eos_token}"
    return f"The tokenizer has no chat template; this plain one is used and saved with the adapter: {shown!r}."


def prompt_text(tokenizer: Any, turns: Sequence[Turn], place: str = "The prompt") -> str:
    """The text that a response to these turns follows. Raises InputError where the template refuses them."""
    return _applied(tokenizer, turns, place, True)


def render(tokenizer: Any, conversation: Conversation) -> Rendered:
    """A whole conversation. Raises InputError naming its place, where the template refuses or rewrites it."""
    turns, place = conversation.turns, conversation.place
    text = _applied(tokenizer, turns, place, False)
    responses = []
    for number, turn in enumerate(turns):
        if turn.role != RESPONSE:
            continue
        after = text if number == len(turns) - 1 else _applied(tokenizer, turns[: number + 1], place, False)
        begin = _begin(tokenizer, turns[:number], turn, after, place)
        if begin is None or not text.startswith(after.rstrip()):
            raise InputError(
                f"{place}: the tokenizer's chat template writes earlier turns otherwise once a later one follows, so "
                "that responses cannot be told apart; keep one response a conversation, or set another chat_template."
            )
        responses.append((begin, len(after.rstrip())))
    return Rendered(text, tuple(responses), tuple(_prompts(text, turns)))


def _begin(tokenizer: Any, before: Sequence[Turn], turn: Turn, after: str, place: str) -> int | None:
    """Where a response begins in the text that ends with it: behind the words that ask for it."""
    asked = _applied(tokenizer, before, place, True)
    if after.startswith(asked):
        return len(asked)
    plain = _applied(tokenizer, before, place, False)  # the template asks in words that it does not write later
    found = after.find(turn.content.strip(), len(plain)) if after.startswith(plain) else -1
    return None if found < 0 else found


def _prompts(text: str, turns: Sequence[Turn]) -> list[tuple[int, int]]:
    found, cursor = [], 0
    for turn in turns:
        content = turn.content.strip()
        begin = text.find(content, cursor)
        if begin < 0:  # the template changes it, so that it cannot be cut
            continue
        cursor = begin + len(content)
        if turn.role != RESPONSE:
            found.append((begin, cursor))
    return found


def _applied(tokenizer: Any, turns: Sequence[Turn], place: str, ask: bool) -> str:
    messages = [{"role": turn.role, "content": turn.content} for turn in turns]
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask))
    except (TemplateError, TypeError, ValueError) as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"{place}: the tokenizer's chat template refuses this conversation: {first}") from None
