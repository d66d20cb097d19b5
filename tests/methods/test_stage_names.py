"""No method asks which stage it is in: a stage is an object that knows what it does."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import fibecfed.methods
from fibecfed.methods import stages

FOLDER = Path(fibecfed.methods.__file__).parent
NAMES = {stage.name for stage in vars(stages).values() if isinstance(getattr(stage, "name", None), str)}
NAMED = ("stage", "name", "phase")


def is_name(node: ast.expr) -> bool:
    """Whether an expression is what a stage is called: ``.stage``, ``.name``, or a variable of that name."""
    called = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
    return called in NAMED


def words(node: ast.AST, constants: dict[str, set[str]]) -> set[str]:
    """The strings that an expression holds, those behind a constant's name included."""
    found: set[str] = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            found.add(part.value)
        elif isinstance(part, ast.Name):
            found |= constants.get(part.id, set())
    return found


def comparisons(source: str) -> Iterator[int]:
    """Lines in which the name of a stage, or whatever is called so, is compared with a string."""
    tree = ast.parse(source)
    constants = {
        target.id: words(node.value, {})
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        sides: list[ast.expr] = []
        strings: set[str] = set()
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            strings = set().union(*(words(side, constants) for side in sides))
        elif isinstance(node, ast.Match):
            sides = [node.subject]
            strings = set().union(*(words(case.pattern, constants) for case in node.cases))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and is_name(node.func.value):
            sides = [node.func.value]
            strings = set().union(*(words(argument, constants) for argument in node.args))  # name.startswith("...")
            strings &= NAMES
        if any(map(is_name, sides)) and strings:
            yield node.lineno


@pytest.mark.parametrize(
    "line",
    [
        'request.address.stage == "train"',
        '"train" != stage.name',
        'stage in ("train", "merge")',
        "name in ROUNDS",
        'stage.name.startswith("train")',
        'match request.address.stage:\n    case "train":\n        pass',
    ],
)
def test_a_comparison_is_seen(line: str) -> None:
    assert list(comparisons(f'ROUNDS = ("train", "warm-up")\n{line}\n')) == [2]


def test_no_module_of_the_methods_compares_the_name_of_a_stage() -> None:
    assert "train" in NAMES
    modules = sorted(FOLDER.rglob("*.py"))
    assert len(modules) > 30
    found = [(path.name, line) for path in modules for line in comparisons(path.read_text(encoding="utf-8"))]
    assert found == []
