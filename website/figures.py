"""Draw the figures of docs/method.md as SVG: one round of FibecFed, and how the part of the examples in use grows.

    python website/figures.py

The second takes its curves from the code. A test holds that the committed files are what this draws.
"""

from collections.abc import Iterator
from pathlib import Path

from fibecfed.curriculum.pacing import prefix_fraction

ASSETS = Path(__file__).resolve().parent.parent / "docs" / "assets"
BLUE, ORANGE, GREEN, GREY, INK = "#0072B2", "#E69F00", "#009E73", "#D9D9D9", "#222222"  # colours of Okabe and Ito
ROUNDS, WARM_UP = 20, 4


def _svg(width: int, height: int, title: str, parts: Iterator[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'font-family="sans-serif" font-size="14" fill="{INK}">'
    )
    marker = (
        '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
        f'orient="auto-start-reverse"><path d="M0 0L10 5L0 10z" fill="{INK}"/></marker></defs>'
    )
    back = f'<rect width="{width}" height="{height}" rx="8" fill="#FFFFFF"/>'
    return "\n".join([head, f"<title>{title}</title>", marker, back, *parts, "</svg>", ""])


def _box(x: float, y: float, width: float, height: float, fill: str, stroke: str = INK) -> str:
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" fill="{fill}" stroke="{stroke}"/>'


def _text(x: float, y: float, text: str, anchor: str = "start", **style: str) -> str:
    extra = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in style.items())
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{extra}>{text}</text>'


def _arrow(x: float, y: float, to_x: float, to_y: float) -> str:
    return (
        f'<line x1="{x:g}" y1="{y:g}" x2="{to_x:g}" y2="{to_y:g}" stroke="{INK}" stroke-width="2" '
        'marker-end="url(#tip)"/>'
    )


def _round() -> Iterator[str]:
    """A device on the left, the server on the right; only shared layers cross."""
    shared = (1, 3, 4)
    yield _box(16, 16, 470, 348, "none", GREY)
    yield _text(32, 42, "A device: its text stays here", font_weight="bold")
    yield _text(32, 74, "its examples, easy first (step 1)")
    for place in range(10):
        used = place < 6
        yield _box(32 + 16 * place, 86 + 3 * (9 - place), 13, 37 + 3 * place, GREEN if used else "#FFFFFF", GREEN)
    yield _text(32, 172, "in use now", fill=GREEN, font_weight="bold")
    yield _text(136, 172, "later")
    yield _text(32, 212, "Layers that are shared (blue)")
    yield _text(32, 230, "train as a whole. In the others")
    yield _text(32, 248, "(orange) the rows that matter")
    yield _text(32, 266, "to this device train, and stay")
    yield _text(32, 284, "on it (steps 5 and 7).")
    yield from _layers(272, shared, True)
    yield _text(372, 340, "LoRA of six layers, and the head", "middle", font_size="12")
    yield _arrow(640, 128, 494, 128)
    yield _text(568, 118, "6: shared layers", "middle")
    yield _arrow(494, 236, 640, 236)
    yield _text(568, 226, "8: the same, trained", "middle")
    yield _text(568, 258, "never: text, scores of", "middle", font_size="12")
    yield _text(568, 274, "examples, orange layers", "middle", font_size="12")
    yield _box(650, 16, 234, 348, "none", GREY)
    yield _text(666, 42, "The server", font_weight="bold")
    yield from _layers(672, shared, False)
    yield _text(767, 340, "9: average, weighted by n_k", "middle", font_size="12")


def _layers(x: float, shared: tuple[int, ...], is_device: bool) -> Iterator[str]:
    yield _box(x, 76, 190, 24, BLUE)
    yield _text(x + 95, 93, "head", "middle", fill="#FFFFFF")
    for layer in range(6):
        y = 112 + 35 * (5 - layer)
        name = f"layer {layer}"
        if layer in shared:
            yield _box(x, y, 190, 28, BLUE)
            yield _text(x + 95, y + 19, name, "middle", fill="#FFFFFF")
            continue
        yield _box(x, y, 190, 28, "#FFFFFF", ORANGE if is_device else GREY)
        for row in (0, 2, 3, 6) if is_device else ():
            yield _box(x + 6 + 10 * row, y + 4, 8, 20, ORANGE, ORANGE)
        yield _text(x + 132 if is_device else x + 95, y + 19, name if is_device else "not here", "middle")


def _pacing() -> Iterator[str]:
    """The part in use against the round, of a run of 20 rounds whose warm-up takes 4."""
    left, right, top, bottom = 90, 640, 60, 300
    after = ROUNDS - WARM_UP

    def place(number: float, part: float) -> tuple[float, float]:
        return left + (right - left) * (number - 1) / (ROUNDS - 1), bottom - (bottom - top) * part

    yield _text(left, 32, "The curriculum: how much of its examples a device trains on", font_weight="bold")
    yield _box(left, top, place(WARM_UP + 1, 0)[0] - left, bottom - top, GREY, GREY)
    yield _text((left + place(WARM_UP + 1, 0)[0]) / 2, 190, "warm-up: all", "middle")
    for percent in (0, 20, 40, 60, 80, 100):
        y = place(1, percent / 100)[1]
        yield f'<line x1="{left}" y1="{y:g}" x2="{right}" y2="{y:g}" stroke="{GREY}"/>'
        yield _text(left - 8, y + 5, f"{percent} %", "end")
    for number in (1, 5, 10, 15, 20):
        yield _text(place(number, 0)[0], bottom + 20, str(number), "middle")
    yield _text((left + right) / 2, bottom + 44, "round", "middle")
    for kind, colour, dashes in (("sqrt", GREEN, "2 4"), ("linear", BLUE, ""), ("exp", ORANGE, "8 4")):
        points = [place(WARM_UP + 1 + t, prefix_fraction(kind, t, after)) for t in range(after)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="3" stroke-dasharray="{dashes}"/>'
    for row, (kind, colour, dashes) in enumerate(
        (("sqrt", GREEN, "2 4"), ("linear, the default", BLUE, ""), ("exp", ORANGE, "8 4"))
    ):
        y = 215 + 22 * row
        yield (
            f'<line x1="440" y1="{y}" x2="480" y2="{y}" stroke="{colour}" stroke-width="3" '
            f'stroke-dasharray="{dashes}"/>'
        )
        yield _text(490, y + 5, kind)


def figures() -> dict[str, str]:
    """Each file's name with what is in it."""
    return {
        "one-round.svg": _svg(900, 380, "One round of FibecFed on one device and the server", _round()),
        "curriculum.svg": _svg(660, 360, "Part of a device's examples in use, by round", _pacing()),
    }


if __name__ == "__main__":
    for name, text in figures().items():
        (ASSETS / name).write_text(text, encoding="utf-8")
