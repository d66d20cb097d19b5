"""What a label is called: one form for all that look the same, whichever file, format or site it comes from.

A site on a machine of its own sees no other file, so the form depends on the label alone.
"""

import math
import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence

import numpy as np

# Characters that take no room (soft hyphen, zero-width spaces, marks of direction and byte order, variation selectors),
# and hyphens that differ from "-" only in where a line may break.
_INVISIBLE = (
    *(0xAD, 0x61C, 0x180E, 0x200B, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2060, 0x2065)),
    *(*range(0x2066, 0x206A), *range(0xFE00, 0xFE10), 0xFEFF),
    *(c for c in (*range(0x20), *range(0x7F, 0xA0)) if not chr(c).isspace()),
)
_LOOKS: Mapping[int, int | None] = {**dict.fromkeys(_INVISIBLE), 0x2010: ord("-"), 0x2011: ord("-")}
_ALIKE = str.maketrans(
    "\u2212\u2012\u2013\u2014\u2018\u2019\u02bc\u201c\u201d", "----'''\"\""
)  # minus, dashes, curly marks
_JOINERS = "\u200c\u200d"  # inside a word they change how it looks

_WHOLE = re.compile(r"([-+]?[0-9]+)\.0*")
_LONG_FRACTION = re.compile(r"-?[0-9]+\.[0-9]{9,}")
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[-+]?[0-9]+)?", re.IGNORECASE)


def visible(text: str) -> str:
    """The text without what cannot be seen: composed letters, single plain spaces, none at the ends."""
    if text.isascii() and text.isprintable():
        return " ".join(text.split())
    shown = unicodedata.normalize("NFC", text.translate(_LOOKS))
    return " ".join(shown.split()).strip(_JOINERS)


def label_name(text: str) -> str:
    """A cell's text as the name of a label or device: ``visible``, and 1.0 is 1, 0.10000000149011612 is 0.1.

    Leading zeros, trailing zeros of a fraction, and upper and lower case are kept: they may tell labels apart.
    """
    name = visible(text)
    whole = _WHOLE.fullmatch(name)
    if whole:
        name = whole[1]
    if name.lstrip("-+") == "0":
        return "0"
    return _unwidened(name) if _LONG_FRACTION.fullmatch(name) else name


def number_text(value: float) -> str:
    """A number that a typed format holds, as text that other formats would have."""
    return str(int(value)) if math.isfinite(value) and value == int(value) else _unwidened(str(value))


def _unwidened(text: str) -> str:
    """The shortest text of a number of single or half precision that was written out with double precision."""
    value = float(text)
    with np.errstate(over="ignore", under="ignore"):
        for narrow in (np.float16, np.float32):
            if len(text) > 9 and float(narrow(value)) == value:
                return str(narrow(value))
    return text


def disagreement(sites: Sequence[Collection[str]]) -> tuple[int, str, int, str] | None:
    """Two sites that write one label differently: (site, its label, site, its label); None if there are none.

    That is: labels of one ``meaning``, of which no site has more than one. A site that has both tells them apart.
    ``sites``: the names of the labels at each.
    """
    spellings: dict[object, dict[str, int]] = {}
    together: set[object] = set()
    for number, names in enumerate(sites):
        own: set[object] = set()
        for name in sorted(set(names)):
            key = meaning(name)
            if key in own:
                together.add(key)
            own.add(key)
            spellings.setdefault(key, {}).setdefault(name, number)
    for key, found in spellings.items():
        if len(found) > 1 and key not in together:
            (one, first), (other, second) = list(found.items())[:2]
            return first, one, second, other
    return None


def spelled_alike(names: Sequence[str]) -> list[tuple[str, str]]:
    """Labels of one ``meaning`` beside the first that has it, such as Yes and yes."""
    first: dict[object, str] = {}
    return [(one, name) for name in names if (one := first.setdefault(meaning(name), name)) != name]


def meaning(name: str) -> object:
    """Equal for labels that are the same number, or the same word but for case and compatible letters."""
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold()).translate(_ALIKE)
    return float(plain) if plain.isascii() and _NUMBER.fullmatch(plain) else plain
