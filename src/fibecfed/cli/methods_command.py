"""What `methods` prints: a table where it fits, a paragraph for each method where not, and TSV in a pipe."""

import csv
import sys
from collections.abc import Mapping, Sequence

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from fibecfed.methods import METHODS, FederatedAveraging, usable_methods
from fibecfed.runs.estimate import Round

_WIDEST = 10_000  # columns; room enough to see how wide a table would like to be
_NUMBERS = ("parameters trained", "parameters sent", "bytes down", "bytes up")

# Of each method: what a round takes, why it cannot be had, or None where it can be had and nothing was counted.
Rounds = Mapping[str, Round | str | None]


def note_on_rounds(uncounted: str | None) -> str:
    """What the numbers are, or why there are none."""
    if uncounted is None:
        return "Of one device in a round in mid-run; 0 where there are no rounds."
    return f"Parameters and bytes a round were not counted: {uncounted}"


def show_methods(rounds: Rounds | None, note: str, console: Console, errors: Console) -> None:
    """The methods and a note on them; in a pipe the note goes to the error output."""
    methods, troubles = usable_methods()
    for trouble in troubles:
        errors.print(trouble, soft_wrap=True, markup=False)
    if console.is_terminal:
        console.print(MethodsTable(rounds, methods))
        console.print(note, soft_wrap=True, markup=False, highlight=False)
        return
    heads = ["method", "source", "trains", "sends"]
    counted = _counted(rounds)
    if rounds is not None:
        heads += [head.replace(" ", "_") for head in (*counted, "refused")]
    writer = csv.writer(sys.stdout, delimiter="\t", lineterminator="\n")
    writer.writerow(heads)
    for name, method in methods.items():
        row = [name, method.paper, method.trains, method.sends]
        if rounds is not None:
            found = rounds[name]
            numbers = _numbers(found)
            row += [""] * len(counted) if numbers is None else map(str, numbers)
            row.append(found if isinstance(found, str) else "")
        writer.writerow(row)
    errors.print(note, soft_wrap=True, markup=False, highlight=False)


def _counted(rounds: Rounds | None) -> Sequence[str]:
    """What is known of rounds."""
    return _NUMBERS if rounds is not None and any(isinstance(found, Round) for found in rounds.values()) else ()


def _numbers(found: Round | str | None) -> list[int] | None:
    if not isinstance(found, Round):
        return None
    return [found.parameters_trained, found.parameters_sent, found.bytes_down, found.bytes_up]


class MethodsTable:
    """The registry; with ``rounds``, what a round of each takes, or why the method cannot be had."""

    def __init__(self, rounds: Rounds | None = None, methods: Mapping[str, type[FederatedAveraging]] = METHODS) -> None:
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

    def _about(self, found: Round | str | None, trains: str, sends: str) -> Sequence[str]:
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
        for column in _counted(self._rounds):
            table.add_column(column.replace(" ", "\n", 1) if "param" in column else column, justify="right")
        for name, method in self._methods.items():
            found = None if self._rounds is None else self._rounds[name]
            refused = f"cannot be had: {found}" if isinstance(found, str) else None
            cells = [method.paper, refused or method.trains, method.sends]
            table.add_row(name, *cells, *(f"{number:,}" for number in _numbers(found) or ()))
        return table
