"""What the benchmarks beside rivals report follows from what was measured."""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
RIVALS = ROOT / "benchmarks" / "rivals"


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    return module("tables")


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"rivals_{name}", RIVALS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = found
    spec.loader.exec_module(found)
    return found


def run(row: str, turn: int, accuracy: float, seconds: float) -> dict[str, Any]:
    taken = {"wall_seconds": seconds, "cpu_seconds": 2 * seconds, "peak_memory_bytes": 500e6}
    return {"row": row, "turn": turn, "accuracy": accuracy, "loss": 1.0, "bytes": 67e6, "processes": 1, **taken}


def test_lines_are_counted_without_blanks_comments_and_docstrings(tables: ModuleType, tmp_path: Path) -> None:
    code = '"""One.\n\nTwo.\n"""\n\n# three\nx = (  # four\n    1,\n)\n\n\n'
    code += 'def f():\n    """Five."""\n    return """\nsix"""\n'
    (tmp_path / "code.py").write_text(code)
    (tmp_path / "task.yaml").write_text("# one\nmethod: fedavg-lora\n\ndata:\n  name: trec\n")
    assert tables.lines_of_code(tmp_path / "code.py") == 6
    assert tables.lines_of_code(tmp_path / "task.yaml") == 3


@pytest.mark.parametrize(
    ("accuracy", "alike"), [(0.612, True), (0.617, True), (0.607, True), (0.618, False), (0.606, False)]
)
def test_rows_within_half_a_point_may_be_compared(tables: ModuleType, accuracy: float, alike: bool) -> None:
    assert tables.comparable(accuracy, 0.612) is alike


def test_ratios_are_taken_within_a_turn_and_then_their_median(tables: ModuleType) -> None:
    runs = [run("ours", 0, 0.6, 10), run("theirs", 0, 0.6, 20), run("ours", 1, 0.6, 100), run("theirs", 1, 0.6, 300)]
    runs += [run("ours", 2, 0.6, 10), run("theirs", 2, 0.6, 15), run("ours", 3, 0.6, 1)]
    ours, theirs = tables.summary(runs, "ours")
    assert (ours["wall_seconds"], ours["wall_seconds_ratio"], ours["turns"]) == (10, 1, 4)
    assert (theirs["wall_seconds"], theirs["wall_seconds_ratio"], theirs["turns"]) == (20, 2, 3)


def test_a_row_that_came_to_something_else_in_one_turn_is_marked(tables: ModuleType) -> None:
    runs = [run("ours", turn, 0.6, 10) for turn in range(3)]
    runs += [run("theirs", turn, 0.6 if turn else 0.62, 10) for turn in range(3)]
    runs += [run("never beside ours", 9, 0.6, 10)]
    assert [row["comparable"] for row in tables.summary(runs, "ours")] == [True, False, None]
    table = tables.markdown(tables.summary(runs, "ours"), {"ours": 11, "theirs": 80, "never beside ours": 1})
    assert "| ours | 60.0 | 10 (1.00 x) | 20 (1.00 x) | 500 (1.00 x) | 67.0 | 11 |" in table
    assert "| theirs | 60.0 (not comparable) |" in table


def test_every_environment_has_the_same_torch_as_the_project() -> None:
    pins = (RIVALS / "shared" / "requirements.txt").read_text().split()
    assert any(pin.startswith("torch==") for pin in pins)
    assert set(pins) <= set((ROOT / "constraints.txt").read_text().split())
    files = list(RIVALS.glob("*/requirements.txt"))
    assert len(files) == 6
    others = [file for file in files if file.parent.name != "shared"]
    assert all("-r ../shared/requirements.txt" in file.read_text().splitlines() for file in others)


def test_the_page_names_the_versions_that_are_installed() -> None:
    page = (RIVALS / "README.md").read_text()
    for file in RIVALS.glob("*/requirements.txt"):
        for version in re.findall(r"==([\d.]+)", file.read_text()):
            assert version in page, (file.parent.name, version)
