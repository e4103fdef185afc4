"""Pictures on disk: PNG files and contact sheets."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from pcs_core.arguments import checks_arguments
from pcs_core.errors import InputError
from pcs_core.storage.durable import replacing_file

GAP = 2
"""Pixels between the pictures of a sheet."""


def png_bytes(image: Tensor, texts: Mapping[str, str] | None = None) -> bytes:
    """Return ``image`` [3 h w] in [0, 1] (clamped) as the bytes of a PNG file.

    ``texts`` stand in chunks of text before the pixels, by their names; both are ASCII.

    Raises
    ------
    InputError
        It holds nan: nothing that could be drawn.
    """
    if torch.isnan(image).any():
        raise InputError("a picture holds nan: the fit diverged, fit again with a smaller lr")
    levels = (image.detach().float().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
    buffer, chunks = io.BytesIO(), PngInfo()
    for name, text in (texts or {}).items():
        chunks.add_text(name, text)
    pixels = levels.permute(1, 2, 0).contiguous().numpy()
    Image.fromarray(pixels, "RGB").save(buffer, "PNG", pnginfo=chunks)
    return buffer.getvalue()


def frame_sheet(clip: Tensor) -> Tensor:
    """Return the frames of ``clip`` [3 t h w] beside each other, as one picture."""
    return sheet(list(clip.unbind(1)), clip.shape[1])


@checks_arguments
def write_png(image: Tensor, path: Path, texts: Mapping[str, str] | None = None) -> None:
    """Write ``image`` [3 h w] in [0, 1] to ``path``, with chunks of text as :func:`png_bytes`.

    Raises
    ------
    InputError
        It holds nan, or the file cannot be written.
    """
    content = png_bytes(image, texts)
    try:
        with replacing_file(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error


@checks_arguments
def sheet(images: Tensor | Sequence[Tensor], columns: int) -> Tensor:
    """Return pictures of one size [n 3 h w], row by row on white, as one [3 H W] with small gaps.

    Raises
    ------
    ValueError
        No picture, or fewer than one column.
    """
    pictures = list(images)
    if not pictures or columns < 1:
        raise ValueError("a sheet needs at least one picture and one column")
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    height, width = pictures[0].shape[-2:]
    size = rows * (height + GAP) - GAP, columns * (width + GAP) - GAP
    tiled = torch.ones(3, *size, dtype=torch.float32)
    for index, picture in enumerate(pictures):
        top = (index // columns) * (height + GAP)
        left = (index % columns) * (width + GAP)
        tiled[:, top : top + height, left : left + width] = picture.detach().float().cpu()
    return tiled
