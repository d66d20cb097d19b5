"""A report as one HTML file that loads nothing: sections of sentences, charts and tables.

Pictures are SVG written here, and not by a plotting library in the browser. plotly.js alone is larger than a whole
report may be. Vega's bundle needs a package of its own to come from, which starts a JavaScript engine for each
report, and every run of a comparison leaves one. SVG also needs no script to be seen and printed, follows the page's
colours, and the script that is left (switch lines, sort, copy, change the theme) is short enough to be read.
Jinja2 fills the page in and escapes all text: names of devices, groups and methods are the user's.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import Any

import jinja2
from markupsafe import Markup

from fibecfed.report.areas import area
from fibecfed.report.svg import swatch
from fibecfed.results.palette import COLOURS, HATCHES, Style

_FILES = "page_files"


@dataclass(frozen=True)
class Cell:
    """What a table shows, what it is sorted by (None: the text), and how it is marked: best, level, worst, fill."""

    text: str | Markup
    value: float | str | None = None
    mark: str = ""
    fill: float | None = None  # 0 to 1, how strongly its ground is coloured

    @property
    def sorted_by(self) -> float | str | None:
        """What the page's script reads; a number that is none is as good as nothing."""
        return "" if isinstance(self.value, float) and not math.isfinite(self.value) else self.value


Rows = list[list[Cell | str]]


@dataclass(frozen=True)
class Table:
    """Rows under headings; text is left, numbers are right. ``caption`` says what it is of."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]
    notes: Sequence[str] = field(default=())
    text_columns: frozenset[int] = frozenset({0})

    @property
    def cells(self) -> list[list[Cell]]:
        """Every cell as one."""
        return [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in self.rows]


@dataclass(frozen=True)
class Key:
    """One entry of a legend: its name, its picture, and what it switches (None: it only explains)."""

    name: str
    picture: Markup
    series: str | None = None

    @staticmethod
    def of_line(name: str, look: Style, series: str | None) -> "Key":
        """For a line."""
        return Key(name, swatch(look), series)

    @staticmethod
    def of_area(name: str, number: int) -> "Key":
        """For a part of bars."""
        return Key(name, Markup('<span class="patch {}"></span>').format(area(number)["class_"]))


@dataclass(frozen=True)
class Chart:
    """Pictures under one title that says what to see, with their data as a table.

    ``rows``: each a heading, which may be empty, what switches it, and its pictures.
    """

    title: str
    rows: Sequence[tuple[str, str | None, Sequence[Markup]]]
    data: Table
    note: str = ""
    keys: Sequence[Key] = field(default=())
    switches: bool = False  # whether its lines can be switched on and off
    unfolded: bool = False  # whether the table is open at first
    wide: bool = False  # whether it takes a whole line of the page

    @property
    def half(self) -> bool:
        """Whether another chart has room beside it."""
        return not self.wide and sum(len(pictures) for _, _, pictures in self.rows) == 1


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading."""

    title: str
    content: Sequence[Chart | Table | str]
    folded: bool = False

    @property
    def anchor(self) -> str:
        """Its place in links."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-") or "part"

    def parts(self) -> list[tuple[str, Any]]:
        """Each part with the name of its kind."""
        kinds = {Chart: "chart", Table: "table", str: "text"}
        return [(kinds[type(part)], part) for part in self.content]


@dataclass(frozen=True)
class Page:
    """A whole report. ``facts``: the few numbers that come first, each with what it is and a remark."""

    title: str
    lead: str
    facts: Sequence[tuple[str, str, str]]
    sections: Sequence[Section]
    command: str | None = None  # that makes it again

    def html(self) -> str:
        """The file. No address is loaded, and no text of a user is taken for markup."""
        shown = [section for section in self.sections if section.content]
        return _template().render(page=self, sections=shown, colours=COLOURS, hatches=HATCHES, made=_today())


def _today() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d")


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fibecfed.report", _FILES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2")
