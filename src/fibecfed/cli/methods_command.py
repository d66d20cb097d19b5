"""What `methods` prints: a table where it fits, a paragraph for each method where not, and TSV in a pipe."""

import csv
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from fibecfed.cli.declared_methods import Declared, declared_methods, others_bring_methods

if TYPE_CHECKING:  # they import torch, which a plain list does without
    from fibecfed.methods import FederatedAveraging
    from fibecfed.runs.estimate import Round

_WIDEST = 10_000  # columns; room enough to see how wide a table would like to be
_NUMBERS = ("parameters trained", "parameters sent", "bytes down", "bytes up")

Rounds = Mapping[str, "Round | str"]  # of each method: what a round takes, or why there is none
Methods = Mapping[str, "Declared | type[FederatedAveraging]"]


def show_methods(rounds: Rounds | None, note: str, console: Console, errors: Console) -> None:
    """The methods and a note on them; in a pipe the note goes to the error output."""
    methods, troubles = _listed(counted=rounds is not None)
    for trouble in troubles:
        errors.print(trouble, soft_wrap=True, markup=False)
    if console.is_terminal:
        console.print(MethodsTable(rounds, methods))
        console.print(note, soft_wrap=True)
        return
    heads = ["method", "source", "trains", "sends"]
    if rounds is not None:
        heads += [head.replace(" ", "_") for head in (*_NUMBERS, "refused")]
    writer = csv.writer(sys.stdout, delimiter="\t", lineterminator="\n")
    writer.writerow(heads)
    for name, method in methods.items():
        row = [name, method.paper, method.trains, method.sends]
        if rounds is not None:
            found = rounds[name]
            numbers = _numbers(found)
            row += [""] * len(_NUMBERS) if numbers is None else map(str, numbers)
            row.append(found if isinstance(found, str) else "")
        writer.writerow(row)
    errors.print(note, soft_wrap=True)


def _listed(counted: bool) -> tuple[Methods, list[str]]:
    """The methods, and a sentence for each that cannot be used; imports them only where that has to be."""
    if not counted and not others_bring_methods():
        return declared_methods(), []
    from fibecfed.methods import usable_methods

    return usable_methods()


def _numbers(found: "Round | str | None") -> list[int] | None:
    if found is None or isinstance(found, str):
        return None
    return [found.parameters_trained, found.parameters_sent, found.bytes_down, found.bytes_up]


class MethodsTable:
    """The registry; with ``rounds``, what a round of each takes, or why the method cannot be had."""

    def __init__(self, rounds: Rounds | None, methods: Methods) -> None:
        self._rounds = rounds
        self._methods = methods

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = self._table()
        if Measurement.get(console, options.update(width=_WIDEST), table).maximum <= options.max_width:
            yield table
            return
        for name, method in self._methods.items():
            yield Text(name, "bold") + Text(f"  {method.paper}", "not bold")
            found = None if self._rounds is None else self._rounds[name]
            for line in self._about(found, method.trains, method.sends):
                yield Padding(Text(line), (0, 0, 0, 4))

    def _about(self, found: "Round | str | None", trains: str, sends: str) -> Sequence[str]:
        if isinstance(found, str):
            return [f"cannot be had: {found}"]
        numbers = _numbers(found)
        said = zip(_NUMBERS, numbers, strict=True) if numbers else ()
        counted = "; ".join(f"{word} {number:,}" for word, number in said)
        return [f"trains {trains}", f"sends {sends}", *([counted] if counted else [])]

    def _table(self) -> Table:
        table = Table(title="Methods")
        for column in ("method", "source", "trains", "sends"):
            table.add_column(column)
        for column in _NUMBERS if self._rounds else ():
            table.add_column(column.replace(" ", "\n", 1) if "param" in column else column, justify="right")
        for name, method in self._methods.items():
            found = None if self._rounds is None else self._rounds[name]
            cells = [method.paper, found if isinstance(found, str) else method.trains, method.sends]
            table.add_row(name, *cells, *(f"{number:,}" for number in _numbers(found) or ()))
        return table
