"""A contact sheet: scenes in rows, each with its caption below."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw

from pcs_mini.world.scene import Scene

COLUMNS = 8
_MARGIN, _LINES, _LINE = 12, 5, 12


def contact_sheet(scenes: Sequence[Scene], columns: int = COLUMNS) -> Image.Image:
    """The scenes (all of one size) side by side, `columns` in a row."""
    size = scenes[0].image.shape[0]
    wide, tall = max(size, 150) + _MARGIN, size + _LINES * _LINE + _MARGIN
    sheet = Image.new("RGB", (columns * wide, -(-len(scenes) // columns) * tall), "white")
    pen = ImageDraw.Draw(sheet)
    for at, scene in enumerate(scenes):
        left, top = (at % columns) * wide, (at // columns) * tall
        sheet.paste(Image.fromarray(scene.image), (left + _MARGIN // 2, top))
        lines = textwrap.wrap(scene.caption, wide // 6)[:_LINES]
        pen.text((left + _MARGIN // 2, top + size + 2), "\n".join(lines), fill="black")
    return sheet
