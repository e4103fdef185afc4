"""Reading one image file, whatever a camera, a phone or an editor made of it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps, UnidentifiedImageError, features
from torch import Tensor

from pcs_core.arguments import checks_arguments
from pcs_core.errors import InputError
from pcs_folders import heif
from pcs_folders.colour import grey_curve, to_srgb
from pcs_folders.other_formats import what_it_is
from pcs_folders.said_colour import SaidColour, avif_colour, exif_colour, png_colour, take

T = TypeVar("T")

AVIF = "avif" in features.modules and features.check("avif")
"""Whether this Pillow reads AVIF: from 11.3 on, where it was built with libavif."""
SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif"),
    *(".webp", ".bmp", ".tif", ".tiff", ".gif", *((".avif",) if AVIF else ())),
    *(heif.SUFFIXES if heif.HEIF else ()),
)
FORMATS = (
    *("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"),
    *(("AVIF",) if AVIF else ()),
    *((heif.FORMAT,) if heif.HEIF else ()),
)
MOST_PIXELS = 64_000_000
SAID = {"PNG": png_colour, "AVIF": avif_colour, heif.FORMAT: heif.heif_colour}
"""What reads the colour that a file of a format says without a profile; of others Exif says it."""
ORIENTATION = 0x0112
"""The EXIF tag; 5 to 8 are turned by a quarter."""


ROWS = 128
"""Rows of a deep picture that are computed in one go: all at once would take twice its memory and more."""
MARGIN = 2
"""A picture is held at this many times the size that the network is shown: what is cut out stays sharp."""


@dataclass(frozen=True, slots=True)
class Picture:
    """``rgb`` [3 h w] in [0, 1], sRGB, on white where ``alpha`` [1 h w] in [0, 1] (or None) is clear.

    ``size`` height and width of the file, upright; ``notes`` what a user should know of how it was read.
    """

    rgb: Tensor
    alpha: Tensor | None
    size: tuple[int, int] = (0, 0)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Opened:
    """A file's (first) picture, upright; ``whole`` its height and width there; ``frames`` how many it holds.

    ``said`` is the colour that the file says without a profile.
    """

    image: Image.Image
    whole: tuple[int, int]
    frames: int
    said: SaidColour | None = None
    main: bool = False
    """Whether the file itself says which one of its pictures is meant, as HEIF does."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of it."""
        if self.frames == 1:
            return ()
        if self.main:
            return (f"the main one of its {self.frames} pictures is read",)
        return (f"the first of its {self.frames} pictures is read: an animation, or pages",)


def read_picture(path: Path, size: tuple[int, int] | None = None) -> Picture:
    """Read an image: EXIF orientation applied, any colour mode, depth and profile as sRGB in [0, 1].

    ``size`` is height and width that it will be shown at: one that covers more than :data:`MARGIN` times
    of it is scaled down to that on reading, so that a photograph is not held at its full size.

    Raises
    ------
    InputError
        Not a whole image, over 64 megapixels, or fully transparent.
    """
    decoded = _decode(path, size)
    colour, alpha = decoded.rgb, decoded.alpha
    if alpha is None or bool((alpha == 1).all()):
        return Picture(colour, None, decoded.size, decoded.notes)
    if bool((alpha == 0).all()):
        raise InputError(f"{path} is fully transparent: remove it")
    return Picture(colour * alpha + (1 - alpha), alpha, decoded.size, decoded.notes)


def stored_pixels(path: Path) -> int:
    """Return how many pixels a file says it holds, nothing decoded; 0 where it cannot be told."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            return image.width * image.height
    except Exception:  # whatever is wrong with it, reading it as a picture says so
        return 0


@checks_arguments
def read_planes(path: Path) -> tuple[Tensor, Tensor | None]:
    """Return colour [3 h w], not on white, and alpha [1 h w] or None, both in [0, 1], upright, sRGB.

    Raises
    ------
    InputError
        Not a whole image, or over 64 megapixels.
    """
    decoded = _decode(path, None)
    return decoded.rgb, decoded.alpha


def _decode(path: Path, size: tuple[int, int] | None) -> Picture:
    return read_file(path, lambda opened: _tensors(opened, path, size), size)


def read_file(
    path: Path,
    use: Callable[[Opened], T],
    size: tuple[int, int] | None = None,
) -> T:
    """Open an image file, upright, and return what ``use`` makes of it.

    With ``size`` (height, width) the decoder may already have left out what :func:`held_size` scales away.

    Raises
    ------
    InputError
        Not a whole image, or over 64 megapixels.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is not a file that can be read"
        what = "is a link to nothing" if path.is_symlink() and not path.exists() else what
        raise InputError(f"{path} {what} with the name of an image: remove or rename it")
    try:
        if path.stat().st_size == 0:
            raise InputError(f"{path} is empty (0 bytes): remove it or copy it again")
        with warnings.catch_warnings():
            # what Pillow only warns about (a damaged EXIF block) is no reason to refuse a picture
            warnings.simplefilter("ignore")
            frames = _check(path)
            # by an open file: by its name Pillow maps the pixels of a TIFF of greys with its sides exchanged
            # where its orientation turns it
            with path.open("rb") as file, Image.open(file, formats=FORMATS) as image:
                width, height = image.size
                if size is not None and image.format in ("JPEG", "MPO"):
                    # the decoder leaves out what is scaled away: an eighth of the memory, and of the time
                    image.draft(None, (MARGIN * max(size), MARGIN * max(size)))
                image.load()
                upright = ImageOps.exif_transpose(image)
                turned = image.getexif().get(ORIENTATION, 1) in range(5, 9)
                whole = (width, height) if turned else (height, width)
                said = SAID.get(image.format or "", exif_colour)(file, image)
                main = image.format == heif.FORMAT
                return use(Opened(upright, whole, frames, said, main))
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        raise InputError(_too_large(path, f"more than {2 * MOST_PIXELS // 1_000_000}")) from error
    except UnidentifiedImageError as error:
        raise InputError(what_it_is(path, FORMATS)) from error
    except MemoryError as error:
        raise InputError(f"{path} does not fit into memory: make it smaller") from error
    except Exception as error:
        # decoders raise whatever their damaged input led them to: SyntaxError, struct.error, ...
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path} is damaged ({reason}): remove it or copy it again") from error


def _check(path: Path) -> int:
    """Refuse what is no picture, or too large; return how many pictures the file holds."""
    # only the header is read here, so that nothing large is decoded; verify spoils the object
    with Image.open(path, formats=FORMATS) as image:
        pixels = image.width * image.height
        if pixels > MOST_PIXELS:
            raise InputError(_too_large(path, f"{pixels / 1e6:.0f}"))
        if pixels == 0:
            raise InputError(f"{path} has no pixels: remove it")
        # a phone's MPO holds one picture and its small copies
        frames = getattr(image, "n_frames", 1) if image.format != "MPO" else 1
        image.verify()
    return frames


def _too_large(path: Path, pixels: str) -> str:
    most = MOST_PIXELS // 1_000_000
    return f"{path} has {pixels} megapixels, at most {most} are read: scale it down"


def _tensors(opened: Opened, path: Path, size: tuple[int, int] | None) -> Picture:
    image, whole, notes = opened.image, opened.whole, opened.notes
    profile, note = take(opened.said, path)
    if profile:
        image.info["icc_profile"] = profile
    notes, mode = (*notes, *([note] if note else [])), image.mode
    if mode == "I":  # which numbers would be black and white?
        raise InputError(f"{path} has 32 bits per pixel, or signed ones: save it with 8 or 16")
    if mode.startswith("I;16"):
        grey, alpha = _deep_grey(image)
        alpha = None if alpha is None else reduced(alpha, whole, size)
        return Picture(_three(reduced(grey, whole, size)), alpha, whole, notes)
    if mode == "F":
        values = np.asarray(image)
        if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
            raise InputError(f"{path} has numbers outside [0, 1]: save it with 8 or 16 bits")
        grey = torch.from_numpy(values.astype(np.float32))[None]
        return Picture(_three(reduced(grey, whole, size)), None, whole, notes)
    kept, _ = held_size(whole, size)
    image, note = _srgb(image, path)
    clear = image.has_transparency_data
    image = image.convert("RGBA" if clear else "RGB")
    if {level for _, level in image.convert("L").getcolors(2) or ()} == {0, 255}:
        notes = (*notes, "it is black and white alone, as masks are: read as a picture")
    if image.size != (kept[1], kept[0]):
        image = image.resize((kept[1], kept[0]), Image.Resampling.BICUBIC, reducing_gap=3.0)
    planes, notes = _planes(image), (*notes, *([note] if note else []))
    return Picture(planes[:3], planes[3:] if clear else None, whole, notes)


def _srgb(image: Image.Image, path: Path) -> tuple[Image.Image, str]:
    """Return the picture in sRGB, and what a user should know of it; a refusal names the file."""
    try:
        return to_srgb(image)
    except InputError as error:
        raise InputError(f"{path} {error}") from error


def held_size(
    whole: tuple[int, int], size: tuple[int, int] | None
) -> tuple[tuple[int, int], float]:
    """Return height and width at which a picture of ``whole`` is held to be shown at ``size``; the factor."""
    if size is None:
        return whole, 1.0
    scale = min(1.0, MARGIN * max(size[0] / whole[0], size[1] / whole[1]))
    return (max(1, round(whole[0] * scale)), max(1, round(whole[1] * scale))), scale


def reduced(plane: Tensor, whole: tuple[int, int], size: tuple[int, int] | None) -> Tensor:
    """Return planes [c h w] in [0, 1] at the size at which a picture of ``whole`` is held."""
    kept, scale = held_size(whole, size)
    if scale == 1 and tuple(plane.shape[-2:]) == kept:
        return plane
    scaled = F.interpolate(plane[None], kept, mode="bilinear", antialias=True, align_corners=False)
    return scaled[0].clamp(0, 1)


def _deep_grey(image: Image.Image) -> tuple[Tensor, Tensor | None]:
    """Return the greys of 16 bits and the alpha of the level that is clear, or None: [1 h w] in [0, 1]."""
    levels, curve = np.asarray(image), grey_curve(image)
    values = np.empty(levels.shape, np.float32)
    for first in range(0, len(levels), ROWS):
        part = levels[first : first + ROWS] / np.float64(65535)
        if curve is not None:
            part = np.interp(part, np.linspace(0, 1, len(curve)), curve)
        values[first : first + ROWS] = part
    clear = image.info.get("transparency")
    seen = (levels != clear).astype(np.float32) if isinstance(clear, int) else None
    return torch.from_numpy(values)[None], None if seen is None else torch.from_numpy(seen)[None]


def _three(grey: Tensor) -> Tensor:
    """Return greys [1 h w] as colours [3 h w]."""
    return grey.expand(3, -1, -1).contiguous()


def _planes(image: Image.Image) -> Tensor:
    levels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    return levels.contiguous().to(torch.float32).div_(255)
