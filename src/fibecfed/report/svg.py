"""Pictures as SVG inside a page: elements whose text is escaped, axes with their ticks, and the marks of lines."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from fibecfed.results.palette import DASHES, Style

WIDTH, HEIGHT = 440, 290
LEFT, RIGHT, TOP, BOTTOM = 58, 22, 12, 46  # margins
_TICKS = 5


def element(tag: str, *children: object, **attributes: object) -> Markup:
    """An element; ``class_`` is class, ``stroke_width`` is stroke-width, and what is None is left out."""
    head = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(_short(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{tag}{head}>{''.join(map(escape, children))}</{tag}>")  # noqa: S704 - every part is escaped


def _short(value: object) -> object:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else value


def two_digits(value: float) -> str:
    """The first two digits of a number, written out where it is neither huge nor tiny: 9,300 and 0.0042."""
    return f"{float(f'{value:.2g}'):,g}"


@dataclass(frozen=True)
class Axis:
    """What an axis says, with its unit, and from where to where it goes."""

    title: str
    low: float
    high: float
    log: bool = False
    whole: bool = False  # ticks at whole numbers only

    @staticmethod
    def over(title: str, values: Iterable[float], *, zero: bool = False, log: bool = False, pad: float = 0.0) -> "Axis":
        """An axis that has room for finite ``values``; ``zero`` is in it, ``pad`` is a part of its length."""
        finite = [value for value in values if math.isfinite(value) and (value > 0 or not log)]
        low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
        low = min(low, 0.0) if zero else low
        if low == high:
            low, high = (low / 2, high * 2) if log else (low - (0.5 if not zero else 0.0), high + 0.5)
        room = 0.0 if log else (high - low) * pad
        return Axis(title, low if zero and low == 0 else low - room, high + room, log)

    def part(self, value: float) -> float:
        """Where a value stands: 0 at the beginning, 1 at the end."""
        if self.log:
            low, high, value = math.log(self.low), math.log(self.high), math.log(max(value, self.low))
            return (value - low) / (high - low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[tuple[float, str]]:
        """Round numbers on it with their text."""
        if self.log:
            first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            every = max(1, (last - first) // _TICKS + 1)
            if last - first >= 1:
                return [(10.0**power, f"{10.0**power:g}") for power in range(first, last + 1, every)]
            return [(value, two_digits(value)) for value in (self.low, math.sqrt(self.low * self.high), self.high)]
        rough: float = (self.high - self.low) / _TICKS
        power = 10.0 ** math.floor(math.log10(rough))
        step: float = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
        step = max(1.0, math.ceil(step)) if self.whole else step
        digits = max(0, -math.floor(math.log10(step) + 1e-9)) + (power <= 1 and f"{step / power:g}" == "2.5")
        first = math.ceil(self.low / step - 1e-9)
        count = math.floor(self.high / step + 1e-9) - first + 1
        return [((first + i) * step, f"{(first + i) * step + 0.0:,.{digits}f}") for i in range(count)]


@dataclass(frozen=True)
class Frame:
    """A picture with two axes; the places of values in it."""

    x: Axis
    y: Axis
    width: float = WIDTH
    height: float = HEIGHT

    def at_x(self, value: float) -> float:
        """The place of a value of ``x``."""
        return LEFT + self.x.part(value) * (self.width - LEFT - RIGHT)

    def at_y(self, value: float) -> float:
        """The place of a value of ``y``."""
        return self.height - BOTTOM - self.y.part(value) * (self.height - TOP - BOTTOM)

    def axes(self) -> Markup:
        """Grid, ticks and titles."""
        parts = []
        bottom, right = self.height - BOTTOM, self.width - RIGHT
        for value, text in self.x.ticks():
            place = self.at_x(value)
            parts.append(element("line", x1=place, x2=place, y1=TOP, y2=bottom, class_="grid"))
            parts.append(element("text", text, x=place, y=bottom + 16, text_anchor="middle"))
        for value, text in self.y.ticks():
            place = self.at_y(value)
            parts.append(element("line", x1=LEFT, x2=right, y1=place, y2=place, class_="grid"))
            parts.append(element("text", text, x=LEFT - 6, y=place + 4, text_anchor="end"))
        middle = (LEFT + right) / 2
        parts.append(element("text", self.x.title, x=middle, y=bottom + 36, text_anchor="middle", class_="axis"))
        half = (TOP + bottom) / 2
        turned = f"rotate(-90 14 {half:.0f})"
        parts.append(element("text", self.y.title, x=14, y=half, text_anchor="middle", class_="axis", transform=turned))
        return Markup("").join(parts)

    def picture(self, said: str, *content: Markup) -> Markup:
        """The whole of it; ``said`` is read out to who cannot see it."""
        return picture(said, self.width, self.height, self.axes(), *content)


def picture(said: str, width: float, height: float, *content: Markup) -> Markup:
    """An SVG that takes the width it is given."""
    return element(
        "svg", element("title", said), *content,
        viewBox=f"0 0 {width:.0f} {height:.0f}", role="img", style=f"max-width:{1.3 * width:.0f}px",
    )  # fmt: skip


def path_through(points: Sequence[tuple[float, float] | None]) -> str:
    """A path through points; None is a gap."""
    parts, pen = [], "M"
    for point in points:
        if point is None:
            pen = "M"
            continue
        parts.append(f"{pen}{point[0]:.1f} {point[1]:.1f}")
        pen = "L"
    return "".join(parts)


def marker(kind: int, x: float, y: float, size: float = 3.4) -> str:
    """The path of a marker, in the order of ``palette.MARKERS``."""
    r, d = size, size * 1.3
    shapes = (
        f"M{x - r:.1f} {y:.1f}a{r} {r} 0 1 0 {2 * r:.1f} 0a{r} {r} 0 1 0 {-2 * r:.1f} 0z",
        f"M{x - r:.1f} {y - r:.1f}h{2 * r:.1f}v{2 * r:.1f}h{-2 * r:.1f}z",
        f"M{x:.1f} {y - r * 1.2:.1f}l{r * 1.2:.1f} {r * 2:.1f}h{-r * 2.4:.1f}z",
        f"M{x:.1f} {y - d:.1f}l{d:.1f} {d:.1f}l{-d:.1f} {d:.1f}l{-d:.1f} {-d:.1f}z",
        f"M{x:.1f} {y + r * 1.2:.1f}l{r * 1.2:.1f} {-r * 2:.1f}h{-r * 2.4:.1f}z",
        f"M{x - 1.2:.1f} {y - r:.1f}h2.4v{r - 1.2:.1f}h{r - 1.2:.1f}v2.4h{1.2 - r:.1f}v{r - 1.2:.1f}h-2.4v{1.2 - r:.1f}"
        f"h{1.2 - r:.1f}v-2.4h{r - 1.2:.1f}z",
        f"M{x - r:.1f} {y - r:.1f}l{2 * r:.1f} {2 * r:.1f}m0 {-2 * r:.1f}l{-2 * r:.1f} {2 * r:.1f}",
    )
    return shapes[kind]


def dashes(look: Style) -> str | None:
    """The dashes of a line as SVG has them."""
    return " ".join(f"{part:g}" for part in DASHES[look.dash]) or None


def swatch(look: Style) -> Markup:
    """A short piece of a line, for a legend."""
    line = element("path", d="M1 6H29", class_="line", stroke_dasharray=dashes(look))
    mark = element("path", d=marker(look.marker, 15, 6), class_="mark")
    return element("svg", line, mark, viewBox="0 0 30 12", class_=f"swatch c{look.colour}", aria_hidden="true")
