"""Write docs/configuration.md and docs/api.md from the code: settings as `fibecfed config` knows them, and docstrings.

    python website/reference.py

A test holds that the committed pages are what this writes.
"""

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

import fibecfed
from fibecfed import federation, methods, tasks
from fibecfed.config import keys, section_meanings
from fibecfed.config.reading import NUMBER_RULE, Dumper
from fibecfed.methods import METHODS, stages

DOCS = Path(__file__).resolve().parent.parent / "docs"
OF_THE_ENVIRONMENT = ("data.dir", "model.dir")  # their defaults differ from machine to machine

CONFIGURATION = f"""# Configuration

Made from the code by `python website/reference.py`; `fibecfed config` prints the same at a terminal, and redirected as
a YAML file to begin with. [Your own data](your-data.md#settings) says how settings are given.

Where a number is wanted: {NUMBER_RULE}.
`null` is no value; what it stands for is said. In a file, sections are nested; on the command line and here,
`section.key` names one. Marks: **[P]** the paper's, **[L]** its group's earlier work, **[D]** decided by this project.
"""

API = """# Python

Made from the code by `python website/reference.py`. Names of the first part come from `fibecfed` itself; they are
imported when they are first used. [Your own data](your-data.md#from-python) has a first example.
"""

FOR_EXTENSIONS = """## For methods and tasks of one's own

[Writing a method](writing-a-method.md) and [Writing a task](writing-a-task.md) use these.
"""


def configuration() -> str:
    """The page of all settings, a table for each section."""
    meanings = section_meanings()
    sections: dict[str, list[str]] = {}
    for key in keys():
        section = key.name.rpartition(".")[0]
        default = "by machine" if key.name in OF_THE_ENVIRONMENT else f"`{_yaml(key.default)}`"
        choices = f" One of: {', '.join(f'`{word}`' for word in key.choices.split(' | '))}." if key.choices else ""
        sections.setdefault(section, []).append(f"| `{key.name}` | {default} | {_cell(key.meaning)}{choices} |")
    lines = [CONFIGURATION]
    for section, rows in sections.items():
        lines += [f"## {section}\n\n{_cell(meanings[section])}\n" if section else "## The run\n"]
        lines += ["| key | default | meaning |", "|---|---|---|", *rows, ""]
    brought = {name: method.settings for name, method in METHODS.items() if method.settings is not None}
    assert not brought, f"methods bring settings that this page does not show: {brought}"
    return "\n".join(lines).rstrip() + "\n"


def api() -> str:
    """The page of what Python programs may use."""
    lines = [API]
    for name in sorted(fibecfed.__all__, key=str.lower):
        if name != "__version__":
            lines += _described(getattr(fibecfed, name), name, "##")
    lines.append(FOR_EXTENSIONS)
    for module, names in (
        (methods, ["FederatedAveraging"]),
        (stages, ["Exchange", "Train"]),
        (federation, ["ServerState"]),
        (tasks, ["Task"]),
    ):
        for name in names:
            lines += _described(getattr(module, name), f"{module.__name__}.{name}", "###")
    return "\n".join(lines).rstrip() + "\n"


def _described(thing: Any, name: str, heading: str) -> Iterator[str]:
    """A class or function: signature and docstring; of a class also its fields and public methods."""
    yield f"{heading} {name}\n"
    if not inspect.isclass(thing):
        yield f"```python\n{_signature(thing)}\n```\n"
        yield f"{_text(thing)}\n"
        return
    yield f"{_text(thing)}\n"
    if dataclasses.is_dataclass(thing) and thing is not fibecfed.Config:
        yield f"Fields: {', '.join(f'`{field.name}`' for field in dataclasses.fields(thing))}.\n"
    for member in vars(thing).values():
        function = getattr(member, "fget", None) or getattr(member, "__func__", member)
        if not inspect.isfunction(function) or function.__name__.startswith("_") or not function.__doc__:
            continue
        if function.__qualname__ != f"{thing.__qualname__}.{function.__name__}":
            continue
        yield f"```python\n{_signature(function, isinstance(member, property))}\n```\n"
        yield f"{_text(function)}\n"


def _signature(function: Any, is_property: bool = False) -> str:
    """As the source has it, so that it does not depend on the version of Python."""
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    assert isinstance(node, ast.FunctionDef)
    returns = f" -> {ast.unparse(node.returns).strip(chr(39))}" if node.returns else ""
    if is_property:
        return f"{node.name}{returns}"
    whole = f"{node.name}({ast.unparse(node.args)}){returns}".replace("(self, ", "(").replace("(self)", "()")
    if len(whole) <= 110:
        return whole
    return f"{node.name}(\n" + "".join(f"    {part},\n" for part in _each(node.args) if part != "self") + f"){returns}"


def _each(arguments: ast.arguments) -> Iterator[str]:
    """The parameters one by one, as they are written."""
    plain = [*arguments.posonlyargs, *arguments.args]
    defaults: list[ast.expr | None] = [*[None] * (len(plain) - len(arguments.defaults)), *arguments.defaults]
    for parameter, default in zip(plain, defaults, strict=True):
        yield _parameter(parameter, default)
    if arguments.vararg:
        yield f"*{ast.unparse(arguments.vararg)}"
    elif arguments.kwonlyargs:
        yield "*"
    for parameter, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        yield _parameter(parameter, default)
    if arguments.kwarg:
        yield f"**{ast.unparse(arguments.kwarg)}"


def _parameter(parameter: ast.arg, default: ast.expr | None) -> str:
    equals = " = " if parameter.annotation else "="
    return ast.unparse(parameter) + (f"{equals}{ast.unparse(default)}" if default else "")


def _text(thing: Any) -> str:
    """The docstring, of which Markdown would take nothing for markup that is none."""
    return inspect.cleandoc(thing.__doc__ or "").replace("<", "&lt;")


def _yaml(value: Any) -> str:
    dumped = yaml.dump([value], Dumper=Dumper, default_flow_style=True, allow_unicode=True, width=float("inf"))
    return str(dumped).strip()[1:-1]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    (DOCS / "configuration.md").write_text(configuration(), encoding="utf-8")
    (DOCS / "api.md").write_text(api(), encoding="utf-8")
