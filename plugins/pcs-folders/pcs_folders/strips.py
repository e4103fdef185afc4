"""A strip of pictures that grows by a row: what a fit drew after so many steps."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from pcs_core.storage.durable import replacing_file
from pcs_folders.pictures import GAP, frame_sheet, png_bytes, sheet

STEPS, PROMPTS = "steps", "prompts"
"""Texts in the PNG file: the step of each row, and the prompt of each column, as JSON."""


def write_row(path: Path, step: int, prompts: Sequence[str], pictures: Tensor) -> None:
    """Put a row of ``pictures`` [n 3 h w], or clips, below those of earlier steps in ``path``, whole or not.

    Rows of this step and later ones, as of a fit that goes on from an older checkpoint, are drawn anew. A
    strip of other prompts is begun anew.
    """
    row = [frame_sheet(picture) if picture.dim() == 4 else picture for picture in pictures]
    with Image.open(io.BytesIO(png_bytes(sheet(row, len(row))))) as image:
        rows = {**rows_before(path, step, prompts, image.size), step: image.copy()}
    width, height = image.size
    strip = Image.new("RGB", (width, len(rows) * (height + GAP) - GAP), "white")
    for index, one in enumerate(rows.values()):
        strip.paste(one, (0, index * (height + GAP)))
    texts = PngInfo()
    texts.add_text(STEPS, json.dumps(list(rows)))
    texts.add_itxt(PROMPTS, json.dumps(list(prompts), ensure_ascii=False))
    with replacing_file(path) as temporary:
        strip.save(temporary, "PNG", pnginfo=texts)


def rows_before(
    path: Path, step: int, prompts: Sequence[str], size: tuple[int, int]
) -> dict[int, Image.Image]:
    """Return step -> row of ``size`` (width, height) in ``path`` before ``step``; none of other prompts."""
    if not path.exists():
        return {}
    with Image.open(path, formats=("PNG",)) as image:
        image.load()
        texts = getattr(image, "text", {})
        steps = json.loads(texts.get(STEPS, "[]"))
        if json.loads(texts.get(PROMPTS, "[]")) != list(prompts) or image.width != size[0]:
            return {}
        width, height = size
        boxes = [
            (0, i * (height + GAP), width, i * (height + GAP) + height) for i in range(len(steps))
        ]
        return {at: image.crop(box) for at, box in zip(steps, boxes, strict=True) if at < step}
