"""Charts as inline SVG: no script, nothing from outside, the colours are the page's own.

A chart is as wide as its box; lengths are in the units of its `viewBox`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10

from markupsafe import Markup

WIDTH = 760
ROW = 30
BAR = 18
CHARACTER = 7.4  # about the width of one, at the size of the texts
VALUES = 100
HEIGHT = 300
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 44
TICKS = 5


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A bar: its label, its length, what stands at its end, its class, and a limit to compare."""

    label: str
    value: float
    text: str
    kind: str = "plain"
    limit: float | None = None


@dataclass(frozen=True, kw_only=True)
class Dot:
    """A measured point: where it lies, its class, and what is told when it is pointed at."""

    x: float
    y: float
    kind: str
    title: str


def bars(rows: Sequence[Bar], *, title: str, full: float | None = None) -> Markup:
    """Horizontal bars from zero, one a row; `full` is the value of the whole width."""
    longest = full or max(max(row.value, row.limit or 0) for row in rows)
    left = 20 + CHARACTER * max(len(row.label) for row in rows)
    room = WIDTH - left - VALUES
    parts = []
    for number, row in enumerate(rows):
        top, length = number * ROW + (ROW - BAR) / 2, max(room * row.value / longest, 1)
        middle, end = top + BAR / 2, max(row.value, row.limit or 0) / longest
        parts += [
            _text(left - 10, middle, row.label, anchor="end"),
            f'<rect class="{row.kind}" x="{left:.1f}" y="{top:.1f}" width="{length:.1f}" '
            f'height="{BAR}" rx="2"><title>{escape(row.label)}: {escape(row.text)}</title></rect>',
            _text(left + room * end + 8, middle, row.text),
        ]
        if row.limit is not None:
            at = left + room * row.limit / longest
            parts.append(_line(at, top - 4, at, top + BAR + 4, "limit"))
    return _svg(ROW * len(rows), title, parts)


def dots(
    points: Sequence[Dot], line: Sequence[tuple[float, float]], *, title: str, x: str, y: str
) -> Markup:
    """Points over a whole-numbered axis, and a line through their means.

    The axis of y begins where the points do, so that what little they differ can be seen.
    """
    low, high, step_y = _scale([point.y for point in points])
    largest = max(point.x for point in points)
    wide, tall = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def place(at_x: float, at_y: float) -> tuple[float, float]:
        across = (at_x + 0.5) / (largest + 1)
        return LEFT + wide * across, TOP + tall * (high - at_y) / (high - low)

    parts = []
    for tick in range(round((high - low) / step_y) + 1):
        value = low + step_y * tick
        _, level = place(0, value)
        parts.append(_line(LEFT, level, WIDTH - RIGHT, level, "grid"))
        parts.append(_text(LEFT - 8, level, f"{value:.4g}", anchor="end"))
    step = max(1, -(-int(largest) // 16))
    parts += [
        _text(place(number, 0)[0], HEIGHT - BOTTOM + 16, str(number), anchor="middle")
        for number in range(0, int(largest) + 1, step)
    ]
    parts.append(_text(LEFT + wide / 2, HEIGHT - 8, x, anchor="middle"))
    parts.append(
        f'<text transform="translate(12 {TOP + tall / 2:.1f}) rotate(-90)" '
        f'text-anchor="middle">{escape(y)}</text>'
    )
    for point in points:
        at_x, at_y = place(point.x, point.y)
        parts.append(
            f'<circle class="{point.kind}" cx="{at_x:.1f}" cy="{at_y:.1f}" r="3.5">'
            f"<title>{escape(point.title)}</title></circle>"
        )
    path = " ".join("{:.1f},{:.1f}".format(*place(*pair)) for pair in line)
    parts.append(f'<polyline class="mean" points="{path}"/>')
    return _svg(HEIGHT, title, parts)


def _scale(values: Sequence[float]) -> tuple[float, float, float]:
    """Bounds around values and a step between ticks, all of them multiples of that step.

    The step is 1, 2, 2.5 or 5 times a power of ten, at least a fifth of what the values span.
    """
    smallest, largest = min(values), max(values)
    wanted = max(largest - smallest, largest / 100, 1e-9) / TICKS
    power = 10.0 ** floor(log10(wanted))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= wanted)
    low = step * floor(smallest / step)
    high = step * ceil(largest / step)
    return low, high if high > low else low + step, step


def _svg(height: float, title: str, parts: Sequence[str]) -> Markup:
    return Markup(  # noqa: S704 - every text in it went through escape()
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">'
        + "".join(parts)
        + "</svg>"
    )


def _text(x: float, y: float, text: str, *, anchor: str = "start") -> str:
    # Baselines are placed by hand: dominant-baseline is not drawn alike everywhere.
    return f'<text x="{x:.1f}" y="{y + 4.5:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'
