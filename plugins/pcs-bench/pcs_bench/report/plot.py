"""The trade-off as inline SVG: alignment across, fidelity up, and the front that nothing beats."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT, LEFT, BOTTOM, MARGIN = 720, 440, 64, 48, 20
LINE, LETTER = 12.0, 7.0
"""Height of a label, and width of a letter at most, in pixels."""
COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#a463f2", "#97bbf5", "#9c6b4e")


def trade_off(
    points: Mapping[str, tuple[float, float]],
    front: Sequence[str],
    *,
    baselines: Sequence[str] = (),
    intervals: Mapping[str, tuple[float, float, float, float]] | None = None,
    across: str,
    up: str,
) -> str:
    """Return an SVG of named points (x, y).

    ``front`` is joined by a line; ``baselines`` are hollow; ``intervals`` are x low, x high, y low,
    y high.
    """
    spans = intervals or {}
    xs = [x for x, _ in points.values()] + [v for s in spans.values() for v in s[:2]]
    ys = [y for _, y in points.values()] + [v for s in spans.values() for v in s[2:]]
    x_ticks, y_ticks = ticks(min(xs), max(xs)), ticks(min(ys), max(ys))

    def at(x: float, y: float) -> tuple[float, float]:
        across_part = (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0])
        up_part = (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return (
            round(LEFT + across_part * (WIDTH - LEFT - MARGIN), 1),
            round(HEIGHT - BOTTOM - up_part * (HEIGHT - BOTTOM - MARGIN), 1),
        )

    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" class="plot" '
        f'aria-label="{escape(up)} over {escape(across)}">'
    ]
    for tick in x_ticks:
        x, _ = at(tick, y_ticks[0])
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{MARGIN}" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(
            f'<text x="{x}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{tick:g}</text>'
        )
    for tick in y_ticks:
        _, y = at(x_ticks[0], tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - MARGIN}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{tick:g}</text>')
    parts.append(
        f'<text x="{(WIDTH + LEFT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(across)}</text>'
    )
    parts.append(
        f'<text transform="translate(14 {(HEIGHT - BOTTOM) / 2}) rotate(-90)" '
        f'text-anchor="middle">{escape(up)}</text>'
    )
    for name, (x_low, x_high, y_low, y_high) in spans.items():
        x, y = at(*points[name])
        (x1, y1), (x2, y2) = at(x_low, y_low), at(x_high, y_high)
        parts.append(f'<line class="span" x1="{x1}" x2="{x2}" y1="{y}" y2="{y}"/>')
        parts.append(f'<line class="span" x1="{x}" x2="{x}" y1="{y1}" y2="{y2}"/>')
    if len(front) > 1:
        path = " ".join("{},{}".format(*at(*points[name])) for name in front)
        parts.append(f'<polyline class="front" points="{path}"/>')
    marks = {name: at(*point) for name, point in points.items()}
    heights = spread(marks)
    for number, (name, (x, y)) in enumerate(marks.items()):
        colour = COLOURS[number % len(COLOURS)]
        fill = "none" if name in baselines else colour
        parts.append(
            f'<circle cx="{x}" cy="{y}" r="5" fill="{fill}" stroke="{colour}" stroke-width="2"/>'
        )
        anchor, shift = ("end", -8) if _leftwards(name, x) else ("start", 8)
        weight = ' font-weight="bold"' if name in front else ""
        height = heights[name]
        if abs(height - (y - 6)) > LINE:  # moved off its mark: say which it names
            parts.append(
                f'<line class="span" x1="{x}" x2="{x + shift}" y1="{y}" y2="{height - 4}"/>'
            )
        parts.append(
            f'<text x="{x + shift}" y="{height}" text-anchor="{anchor}"{weight}>{escape(name)}</text>'
        )
    return "".join([*parts, "</svg>"])


def _leftwards(name: str, x: float) -> bool:
    return x + LETTER * len(name) + 8 > WIDTH


def spread(marks: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """Return the height of each mark's label: above the mark, or lower where others lie."""
    placed: list[tuple[float, float, float]] = []
    found = {}
    for name, (x, y) in sorted(marks.items(), key=lambda item: item[1][1]):
        wide = LETTER * len(name) + 8
        left, right = (x - wide, x) if _leftwards(name, x) else (x, x + wide)
        height = y - 6
        for low, high, other in sorted(placed, key=lambda label: label[2]):
            if left < high and right > low and abs(height - other) < LINE:
                height = other + LINE
        found[name] = round(height, 1)
        placed.append((left, right, height))
    return found


def ticks(low: float, high: float) -> list[float]:
    """Return round numbers from below ``low`` to above ``high``, about five."""
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    raw = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= raw * 0.999)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(i * step, 10) for i in range(first, last + 1)]
