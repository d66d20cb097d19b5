"""What `config` prints: every setting with its default and meaning; YAML where it is redirected."""

import textwrap
from collections.abc import Iterator

import yaml
from rich.console import Console
from rich.text import Text

from fibecfed.config import Config, Key, keys, nearest_hint, section_meanings, settings_section
from fibecfed.config.reading import NUMBER_RULE, Dumper
from fibecfed.errors import InputError
from fibecfed.screen import say

_WIDTH = 110  # of a comment
_MARKS = "[P]: the paper's; [L]: its group's earlier work; [D]: decided by this project."
_RULES = (
    f"Where a number is wanted: {NUMBER_RULE}.",
    "A key that holds text takes what is written; elements of a list that look like numbers or truths are quoted.",
)


def show_config(section: str | None, console: Console, method: str | None = None) -> None:
    """Print the settings of a section such as data or data.partition, or one setting; None: all.

    Of a ``method`` only those that it brings itself. Raises InputError, naming the nearest, where there is none of
    that name, and for a method that brings no settings.
    """
    whole = Config if method is None else _whole(method)
    chosen = [key for key in keys(whole) if section is None or f"{key.name}.".startswith(f"{section}.")]
    if not chosen:
        known = [*section_meanings(whole), *(key.name for key in keys(whole))]
        raise InputError(f"There is no section or key '{section}'.{nearest_hint(str(section), known)}")
    if not console.is_terminal:
        for line in _as_yaml(chosen, whole):
            say(console, line)
        return
    console.print(_MARKS)
    for key, opened in _with_sections(chosen, whole):
        for name, meaning in opened:
            console.print(Text(f"\n{name}", "bold underline") + Text(f"  {meaning}", "not bold not underline"))
        choices = f"  ({key.choices})" if key.choices else ""
        console.print(Text(key.name, "bold") + Text(f" = {_value(key)}{choices}", "not bold"))
        for line in textwrap.wrap(key.meaning, max(20, console.width - 4)):
            console.print(f"    {line}")
    console.print()
    for rule in _RULES:
        console.print(rule)


def _whole(method: str) -> type:
    """What the settings of a method are keys of."""
    from fibecfed.methods import method_class  # imports torch, which nothing else here needs

    settings = method_class(method).settings
    if settings is None:
        raise InputError(
            f"method={method} brings no settings of its own; `fibecfed config` lists those of all methods."
        )
    return settings_section(settings)


def _as_yaml(chosen: list[Key], whole: type) -> Iterator[str]:
    """A configuration file with these defaults."""
    for rule in (_MARKS, *_RULES):
        yield from _comment(rule, "")
    for key, opened in _with_sections(chosen, whole):
        for name, meaning in opened:
            indent = "  " * name.count(".")
            yield ""
            yield from _comment(meaning, indent)
            yield f"{indent}{name.rsplit('.', 1)[-1]}:"
        indent = "  " * key.name.count(".")
        choices = f" ({key.choices})" if key.choices else ""
        yield from _comment(f"{key.meaning}{choices}", indent)
        yield f"{indent}{key.name.rsplit('.', 1)[-1]}: {_value(key)}"


def _comment(text: str, indent: str) -> Iterator[str]:
    for line in textwrap.wrap(text, _WIDTH, break_long_words=False, break_on_hyphens=False):
        yield f"{indent}# {line}"


def _value(key: Key) -> str:
    """The default on one line, as a configuration file has it."""
    text = yaml.dump([key.default], Dumper=Dumper, default_flow_style=True, allow_unicode=True, width=float("inf"))
    return str(text).strip()[1:-1]


def _with_sections(chosen: list[Key], whole: type) -> Iterator[tuple[Key, list[tuple[str, str]]]]:
    """Each key with the sections, by name and meaning, that begin with it."""
    meanings = section_meanings(whole)
    seen: set[str] = set()
    for key in chosen:
        parts = key.name.split(".")[:-1]
        names = [".".join(parts[: depth + 1]) for depth in range(len(parts))]
        opened = [name for name in names if name not in seen]
        seen.update(opened)
        yield key, [(name, meanings[name]) for name in opened]
