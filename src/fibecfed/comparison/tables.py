"""Tables as Markdown, CSV and LaTeX. Cells keep their full numbers; only Markdown and LaTeX round them."""

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from fibecfed.comparison.statistics import Interval, Spread

Cell = str | float | int | Spread | Interval | None
_MISSING = "-"
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$",
}  # fmt: skip


@dataclass(frozen=True)
class Column:
    """A heading, how many decimals its numbers are shown with, and what they are multiplied by for the eye.

    ``plain_name`` is the heading of the unscaled numbers in CSV, where it differs.
    """

    name: str
    decimals: int = 0
    scale: float = 1.0
    signed: bool = False
    plain_name: str = ""

    def show(self, cell: Cell) -> str:
        """A cell as text."""
        if cell is None:
            return _MISSING
        if isinstance(cell, str):
            return cell
        if isinstance(cell, Spread):
            shown = self._number(cell.mean)
            return shown if cell.deviation is None else f"{shown} ± {cell.deviation * self.scale:.{self.decimals}f}"
        if isinstance(cell, Interval):
            if cell.low is None or cell.high is None:
                return self._number(cell.mean)
            return f"{self._number(cell.mean)} ({self._number(cell.low)} to {self._number(cell.high)})"
        return self._number(cell)

    def _number(self, value: float) -> str:
        shown = f"{value * self.scale:{'+' if self.signed else ''},.{self.decimals}f}"
        return shown.replace("-", "+" if self.signed else "") if not float(shown.replace(",", "")) else shown

    def plain(self, cell: Cell) -> list[str]:
        """A cell's values for CSV, unscaled; see ``headings``."""
        if isinstance(cell, Spread):
            return [repr(cell.mean), "" if cell.deviation is None else repr(cell.deviation)]
        if isinstance(cell, Interval):
            return ["" if v is None else repr(v) for v in (cell.mean, cell.low, cell.high, cell.pairs)]
        return ["" if cell is None else cell if isinstance(cell, str) else repr(cell)]

    def headings(self, cells: Iterable[Cell]) -> list[str]:
        """The CSV columns that these cells take."""
        name = self.plain_name or self.name
        for cell in cells:
            if isinstance(cell, Spread):
                return [name, f"{name}, standard deviation"]
            if isinstance(cell, Interval):
                return [name, f"{name}, low", f"{name}, high", f"{name}, pairs"]
        return [name]


@dataclass(frozen=True)
class ReportTable:
    """A titled table; ``notes`` stand under it, ``key`` names its files."""

    key: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = field(default=())

    def markdown(self) -> str:
        """A pipe table under a heading."""
        shown = self._shown(lambda text: text.replace("|", r"\|"))
        lines = [f"## {self.title}", "", _pipes([c.name for c in self.columns])]
        lines.append(_pipes([":--" if self._is_text(i) else "--:" for i in range(len(self.columns))]))
        lines += [_pipes(row) for row in shown]
        lines += ["", *[f"{note}\n" for note in self.notes]]
        return "\n".join(lines).rstrip() + "\n"

    def csv(self) -> str:
        """Full numbers: scores in [0, 1], bytes, seconds; an empty cell where there is none."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        widths = [column.headings(row[i] for row in self.rows) for i, column in enumerate(self.columns)]
        writer.writerow([name for names in widths for name in names])
        for row in self.rows:
            cells: list[str] = []
            for column, names, cell in zip(self.columns, widths, row, strict=True):
                values = column.plain(cell)
                cells += values + [""] * (len(names) - len(values))
            writer.writerow(cells)
        return buffer.getvalue()

    def latex(self) -> str:
        """A table environment that needs no package."""
        form = "".join("l" if self._is_text(i) else "r" for i in range(len(self.columns)))
        head = " & ".join(escaped(c.name) for c in self.columns)
        body = [" & ".join(row) + r" \\" for row in self._shown(escaped)]
        caption = escaped(" ".join([f"{self.title}.", *self.notes]))
        lines = [r"\begin{table}", rf"\caption{{{caption}}}", rf"\begin{{tabular}}{{{form}}}", r"\hline"]
        lines += [head + r" \\", r"\hline", *body, r"\hline", r"\end{tabular}", r"\end{table}"]
        return "\n".join(lines) + "\n"

    def _shown(self, safe: Callable[[str], str]) -> list[list[str]]:
        return [[safe(c.show(cell)) for c, cell in zip(self.columns, row, strict=True)] for row in self.rows]

    def _is_text(self, column: int) -> bool:
        return all(isinstance(row[column], str) for row in self.rows)


def escaped(text: str) -> str:
    """Text that LaTeX prints as it is."""
    return "".join(_LATEX.get(character, character) for character in text)


def _pipes(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
