"""From measured runs to what is reported: medians, ratios within a turn, which rows may be compared, lines of code."""

import ast
import io
import statistics
import tokenize
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HALF_A_POINT = 0.005
RATIOS = ("wall_seconds", "cpu_seconds", "peak_memory_bytes")
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_LAYOUT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def lines_of_code(file: Path) -> int:
    """Lines that are neither blank nor comment; of Python nor docstring."""
    source = file.read_text(encoding="utf-8")
    if file.suffix != ".py":
        return sum(bool(line.strip()) and not line.lstrip().startswith("#") for line in source.splitlines())
    said: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node) is not None:
            said |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _LAYOUT:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - said)


def comparable(accuracy: float, reference: float) -> bool:
    """Whether two runs came to the same, to half a point."""
    return abs(accuracy - reference) <= HALF_A_POINT + 1e-12


def summary(runs: Sequence[Mapping[str, Any]], reference: str) -> list[dict[str, Any]]:
    """A row for each name in ``runs``: medians, and medians of the ratios to the ``reference`` in the same turn."""
    by_name: dict[str, dict[int, Mapping[str, Any]]] = {}
    for run in runs:
        by_name.setdefault(run["row"], {})[run["turn"]] = run
    base = by_name.get(reference, {})
    found = []
    for name, turns in by_name.items():
        row: dict[str, Any] = {"row": name, "turns": len(turns)}
        for key in ("accuracy", "loss", "bytes", "processes", *RATIOS):
            row[key] = statistics.median(run[key] for run in turns.values())
        both = [turn for turn in turns if turn in base]
        for key in RATIOS:
            row[f"{key}_ratio"] = statistics.median(turns[t][key] / base[t][key] for t in both) if both else None
        alike = [comparable(turns[turn]["accuracy"], base[turn]["accuracy"]) for turn in both]
        row["comparable"] = all(alike) if alike else None  # None: never beside the reference
        found.append(row)
    return found


def markdown(rows: Sequence[Mapping[str, Any]], lines: Mapping[str, int]) -> str:
    """The summary as a table; a ratio stands in brackets behind its median."""
    head = "| | accuracy | wall, s | CPU, s | peak memory, MB | sent, MB | lines |\n|---|---|---|---|---|---|---|\n"
    return head + "".join(_line(row, lines[row["row"]]) for row in rows)


def _line(row: Mapping[str, Any], lines: int) -> str:
    note = " (not comparable)" if row["comparable"] is False else ""
    units = {"wall_seconds": 1.0, "cpu_seconds": 1.0, "peak_memory_bytes": 1e6}
    cells = [f"{row[key] / unit:.0f}{_ratio(row[f'{key}_ratio'])}" for key, unit in units.items()]
    sent = f"{row['bytes'] / 1e6:.1f}"
    return "| " + " | ".join([row["row"], f"{100 * row['accuracy']:.1f}{note}", *cells, sent, str(lines)]) + " |\n"


def _ratio(value: float | None) -> str:
    return "" if value is None else f" ({value:.2f} x)"
