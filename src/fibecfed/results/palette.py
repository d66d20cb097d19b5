"""How lines and areas are told apart in pictures: by colour, and by dashes, markers or hatching for whoever sees none.

Seven of the eight colours of Okabe and Ito (2008, "Color Universal Design"); yellow is lost on white, and grey takes
the place of black, which is lost on a dark page.
"""

from dataclasses import dataclass

import numpy as np

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
DASHES: tuple[tuple[float, ...], ...] = ((), (6, 2), (2, 2), (8, 2, 2, 2), (8, 2, 2, 2, 2, 2), (12, 3))  # on, off, ...
MARKERS = ("o", "s", "^", "D", "v", "P", "X")  # as matplotlib names them
HATCHES = ("", "////", "....")
MOST_AREAS = 20  # of a picture, each of which can be told from the others


@dataclass(frozen=True)
class Style:
    """The look of one line: positions in ``COLOURS``, ``DASHES`` and ``MARKERS``."""

    colour: int
    dash: int
    marker: int


def style(number: int) -> Style:
    """The look of the line of this number: the first 42 have each a pair of colour and dashes of their own."""
    turn = number // len(COLOURS)
    return Style(number % len(COLOURS), turn % len(DASHES), (number + turn) % len(MARKERS))


def hatched(number: int) -> tuple[int, int]:
    """Positions in ``COLOURS`` and ``HATCHES`` of the area of this number; the first 21 differ."""
    return number % len(COLOURS), (number // len(COLOURS)) % len(HATCHES)


def largest(totals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of more than ``MOST_AREAS`` groups those that have an area of their own, in order, and those that share one."""
    order = np.argsort(-totals, kind="stable")
    return np.sort(order[: MOST_AREAS - 1]), order[MOST_AREAS - 1 :]
