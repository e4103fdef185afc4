"""The trade-off as inline SVG: alignment across, fidelity up, and the front that nothing beats."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape

WIDTH, HEIGHT, LEFT, BOTTOM, MARGIN = 720, 440, 64, 48, 20
LINE, LETTER, RADIUS = 12.0, 7.0, 5.0
"""Height of a label, width of a letter at most, and radius of a mark, in pixels."""
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
        f'aria-label="{escape(up)} over {escape(across)}">',
        *_axes(at, x_ticks, y_ticks, across, up),
    ]
    for name, (x_low, x_high, y_low, y_high) in spans.items():
        x, y = at(*points[name])
        (x1, y1), (x2, y2) = at(x_low, y_low), at(x_high, y_high)
        parts.append(f'<line class="span" x1="{x1}" x2="{x2}" y1="{y}" y2="{y}"/>')
        parts.append(f'<line class="span" x1="{x}" x2="{x}" y1="{y1}" y2="{y2}"/>')
    if len(front) > 1:
        path = " ".join("{},{}".format(*at(*points[name])) for name in front)
        parts.append(f'<polyline class="front" points="{path}"/>')
    parts += _marks({name: at(*point) for name, point in points.items()}, front, baselines)
    return "".join([*parts, "</svg>"])


def _axes(
    at: Callable[[float, float], tuple[float, float]],
    x_ticks: Sequence[float],
    y_ticks: Sequence[float],
    across: str,
    up: str,
) -> list[str]:
    """Return the grid lines, their numbers, and the name of each axis; ``at`` places values in pixels."""
    parts: list[str] = []
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
    return parts


def _marks(
    marks: Mapping[str, tuple[float, float]], front: Sequence[str], baselines: Sequence[str]
) -> list[str]:
    """Return a circle and a label for each named place in pixels."""
    parts: list[str] = []
    places = spread(marks)
    for number, (name, (x, y)) in enumerate(marks.items()):
        colour = COLOURS[number % len(COLOURS)]
        fill = "none" if name in baselines else colour
        parts.append(
            f'<circle cx="{x}" cy="{y}" r="{RADIUS}" fill="{fill}" stroke="{colour}" '
            'stroke-width="2"/>'
        )
        left, base = places[name]
        wide = width(name)
        if not (left - 10 <= x <= left + wide + 10 and abs(base - 4 - y) <= 2 * LINE):
            near = min(max(x, left), left + wide)  # off its mark: say which it names
            parts.append(f'<line class="span" x1="{x}" x2="{near}" y1="{y}" y2="{base - 4}"/>')
        weight = ' font-weight="bold"' if name in front else ""
        parts.append(f'<text x="{left}" y="{base}"{weight}>{escape(name)}</text>')
    return parts


def width(name: str) -> float:
    """Return how wide a label is at most, in pixels."""
    return LETTER * len(name)


def spread(marks: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """Return the left end and base line of each mark's label, clear of the marks and of one another.

    A label takes the first free place around its mark, further and further away. Where the plot is so full
    that none is free, it takes the one with the least covered.
    """
    taken = [
        (x - RADIUS - 1, y - RADIUS - 1, x + RADIUS + 1, y + RADIUS + 1) for x, y in marks.values()
    ]
    labels = {}
    for name, (x, y) in sorted(marks.items(), key=lambda item: item[1][1]):
        wide = width(name)
        best, least = (0.0, 0.0), math.inf
        for left, base in _around(x, y, wide):
            box = (left, base - LINE + 2, left + wide, base + 2)
            if box[0] < LEFT or box[2] > WIDTH or box[1] < 0 or box[3] > HEIGHT - BOTTOM:
                continue
            covered = sum(_common(box, other) for other in taken)
            if covered < least:
                best, least = (left, base), covered
            if covered == 0:
                break
        labels[name] = (round(best[0], 1), round(best[1], 1))
        taken.append((best[0], best[1] - LINE + 2, best[0] + wide, best[1] + 2))
    return labels


def _around(x: float, y: float, wide: float) -> Iterator[tuple[float, float]]:
    """Yield left end and base line of a label beside, above and below a mark, then further away."""
    for step in range(12):
        away = step * LINE
        for base in (y + 4 - away, y + 4 + away) if step else (y + 4,):
            yield x + RADIUS + 4, base
            yield x - RADIUS - 4 - wide, base
            if step:
                yield x - wide / 2, base


def _common(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Return the area that two boxes (left, top, right, bottom) share."""
    across, down = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(0.0, across) * max(0.0, down)


def ticks(low: float, high: float) -> list[float]:
    """Return round numbers from below ``low`` to above ``high``, about five."""
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    raw = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= raw * 0.999)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(i * step, 10) for i in range(first, last + 1)]
