"""The result as an SVG: a group of bars per piece of work, a bar per engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

WIDTH, LABEL, BAR, GAP, TOP = 860, 190, 20, 26, 58
COLOURS = {
    "eager": "#8a8f98",
    "eager bf16": "#b9bdc4",
    "compile": "#efb118",
    "onnx": "#4269d0",
    "onnx int8": "#3ca951",
    "onnx openvino": "#6cc5e0",
    "onnx openvino int8": "#97bbf5",
}


def bars(rows: Sequence[Mapping[str, Any]], title: str, below: str) -> str:
    """Return an SVG of the rows' seconds, each group to its own scale, with ratio and spread."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["name"].rpartition(": ")[0], []).append(row)
    height = TOP + sum(GAP + BAR * len(g) + 12 for g in groups.values()) + 24
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'font-family="sans-serif" font-size="12" aria-label="{escape(title)}">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="12" y="24" font-size="16" font-weight="bold">{escape(title)}</text>',
        f'<text x="12" y="42" fill="#555">{escape(below)}</text>',
    ]
    y = TOP
    for name, group in groups.items():
        y += GAP
        parts.append(
            f'<text x="12" y="{y - 7}" font-weight="bold">{escape(group[0]["model"])}: '
            f"{escape(name)}</text>"
        )
        longest = max(row["seconds"] + row["spread"] / 2 for row in group) or 1.0
        for row in group:
            parts += _bar(row, y, (WIDTH - LABEL - 190) / longest)
            y += BAR
        y += 12
    return "\n".join([*parts, "</svg>"]) + "\n"


def _bar(row: Mapping[str, Any], y: int, scale: float) -> list[str]:
    label = row["name"].rpartition(": ")[2]
    wide = max(1.0, row["seconds"] * scale)
    low = LABEL + max(0.0, row["seconds"] - row["spread"] / 2) * scale
    high = LABEL + (row["seconds"] + row["spread"] / 2) * scale
    middle = y + BAR / 2 - 1
    text = seconds(row["seconds"])
    if row["versus"] != row["name"]:
        text += f"   {row['ratio']:.2f}x"
    return [
        f'<text x="{LABEL - 8}" y="{y + 14}" text-anchor="end">{escape(label)}</text>',
        f'<rect x="{LABEL}" y="{y + 1}" width="{wide:.1f}" height="{BAR - 4}" '
        f'fill="{COLOURS.get(label, "#777777")}"/>',
        f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}" stroke="#222"/>',
        f'<text x="{max(high, LABEL + wide) + 8:.1f}" y="{y + 14}">{text}</text>',
    ]


def seconds(value: float) -> str:
    """Return seconds as people read them."""
    return f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.3g} ms"
