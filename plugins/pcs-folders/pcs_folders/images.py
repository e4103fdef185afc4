"""Reading one image file, whatever a camera, a phone or an editor made of it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from pcs_core.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".gif")
UNREADABLE = (
    *(".heic", ".heif", ".avif", ".jxl", ".jp2", ".svg", ".psd", ".eps"),
    *(".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".raf", ".rw2"),
)
"""Suffixes of pictures in formats that are not read."""
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
MOST_PIXELS = 64_000_000


@dataclass(frozen=True, slots=True)
class Picture:
    """``rgb`` [3 h w] in [0, 1], on white where ``alpha`` [1 h w] in [0, 1] (or None) is clear."""

    rgb: Tensor
    alpha: Tensor | None


def read_picture(path: Path) -> Picture:
    """Read an image: EXIF orientation applied, any colour mode and depth scaled to RGB in [0, 1].

    Raises
    ------
    InputError
        Not a whole image, over 64 megapixels, or fully transparent.
    """
    colour, alpha = read_planes(path)
    if alpha is None or bool((alpha == 1).all()):
        return Picture(colour, None)
    if bool((alpha == 0).all()):
        raise InputError(f"{path} is fully transparent: remove it")
    return Picture(colour * alpha + (1 - alpha), alpha)


def read_mask(path: Path) -> Tensor:
    """Read a mask as [1 h w] in [0, 1]: brightness, clear where the file is transparent.

    Raises
    ------
    InputError
        Not a whole image, or over 64 megapixels.
    """
    colour, alpha = read_planes(path)
    grey = (colour * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(0, keepdim=True)
    return (grey if alpha is None else grey * alpha).clamp(0, 1)


def read_planes(path: Path) -> tuple[Tensor, Tensor | None]:
    """Return colour [3 h w], not on white, and alpha [1 h w] or None, both in [0, 1], upright.

    Raises
    ------
    InputError
        Not a whole image, or over 64 megapixels.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is not a file that can be read"
        raise InputError(f"{path} {what} with the name of an image: remove or rename it")
    try:
        if path.stat().st_size == 0:
            raise InputError(f"{path} is empty (0 bytes): remove it or copy it again")
        with warnings.catch_warnings():
            # what Pillow only warns about (a damaged EXIF block) is no reason to refuse a picture
            warnings.simplefilter("ignore")
            _check(path)
            with Image.open(path, formats=FORMATS) as image:
                image.load()
                return _tensors(ImageOps.exif_transpose(image), path)
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        raise InputError(_too_large(path, f"more than {2 * MOST_PIXELS // 1_000_000}")) from error
    except UnidentifiedImageError as error:
        raise InputError(
            f"{path} is not an image ({', '.join(FORMATS)}): remove it or save it again"
        ) from error
    except MemoryError as error:
        raise InputError(f"{path} does not fit into memory: make it smaller") from error
    except Exception as error:
        # decoders raise whatever their damaged input led them to: SyntaxError, struct.error, ...
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path} is damaged ({reason}): remove it or copy it again") from error


def _check(path: Path) -> None:
    # only the header is read here, so that nothing large is decoded; verify spoils the object
    with Image.open(path, formats=FORMATS) as image:
        pixels = image.width * image.height
        if pixels > MOST_PIXELS:
            raise InputError(_too_large(path, f"{pixels / 1e6:.0f}"))
        if pixels == 0:
            raise InputError(f"{path} has no pixels: remove it")
        image.verify()


def _too_large(path: Path, pixels: str) -> str:
    most = MOST_PIXELS // 1_000_000
    return f"{path} has {pixels} megapixels, at most {most} are read: scale it down"


def _tensors(image: Image.Image, path: Path) -> tuple[Tensor, Tensor | None]:
    mode = image.mode
    if mode == "I" or mode.startswith("I;16"):
        levels = np.asarray(image).astype(np.int64)
        if levels.min() < 0 or levels.max() > 65535:
            raise InputError(f"{path} has 32 bits per pixel: save it with 8 or 16")
        clear = image.info.get("transparency")
        alpha = None
        if isinstance(clear, int):
            alpha = torch.from_numpy((levels != clear).astype(np.float32))[None]
        return _grey(levels / 65535), alpha
    if mode == "F":
        values = np.asarray(image)
        if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
            raise InputError(f"{path} has numbers outside [0, 1]: save it with 8 or 16 bits")
        return _grey(values), None
    if image.has_transparency_data:
        planes = _planes(image.convert("RGBA"))
        return planes[:3], planes[3:]
    return _planes(image.convert("RGB")), None


def _grey(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.float32)).expand(3, -1, -1).contiguous()


def _planes(image: Image.Image) -> Tensor:
    levels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    return levels.contiguous().to(torch.float32) / 255
