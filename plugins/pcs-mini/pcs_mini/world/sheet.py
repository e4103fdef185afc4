"""A contact sheet: pictures in rows, each with its caption below."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw

from pcs_mini.world.assets import Pixels

COLUMNS = 8
_MARGIN, _LINES, _LINE = 12, 5, 12


def captioned(pictures: Sequence[tuple[Pixels, str]], columns: int = COLUMNS) -> Image.Image:
    """Pictures ``[size, size, 3]`` (all of one size) side by side, `columns` in a row."""
    size = pictures[0][0].shape[0]
    wide, tall = max(size, 150) + _MARGIN, size + _LINES * _LINE + _MARGIN
    sheet = Image.new("RGB", (columns * wide, -(-len(pictures) // columns) * tall), "white")
    pen = ImageDraw.Draw(sheet)
    for at, (pixels, caption) in enumerate(pictures):
        left, top = (at % columns) * wide, (at // columns) * tall
        sheet.paste(Image.fromarray(pixels), (left + _MARGIN // 2, top))
        lines = textwrap.wrap(caption, wide // 6)[:_LINES]
        pen.text((left + _MARGIN // 2, top + size + 2), "\n".join(lines), fill="black")
    return sheet
