"""Reading one mask, whatever a painter, a segmentation tool or another trainer made of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pcs_core.errors import InputError
from pcs_folders.images import Opened, read_file

NEARLY = 0.1
"""Share of the range by which black and white may miss its ends, as after lossy compression."""
COLOURED = 32
"""Levels by which the channels of a grey may differ."""
LABEL = 0.05
"""Share of the picture that makes a level between black and white an area, and not a soft edge."""
MANY = 12
"""Most levels that are labels of a segmentation; with more it is a soft mask."""
BLOCK = 2**20
"""Pixels that are looked at in one go: a mask of 64 megapixels would take gigabytes at once."""
BRIGHTNESS = np.array([0.299, 0.587, 0.114])
"""Of red, green and blue (ITU-R BT.601)."""


@dataclass(frozen=True, slots=True)
class MaskFile:
    """``values`` [1 h w] in [0, 1], 1 is the subject; ``notes`` what a user should know of how it was read."""

    values: Tensor
    notes: tuple[str, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether it shows nothing at all."""
        return not bool(self.values.any())


def read_mask(path: Path) -> MaskFile:
    """Read a mask: white is the subject, soft edges stay.

    Levels 0 and 1, 0 and 255, 16 bits or any two with 0 are one and the same mask; a palette is read by its
    greys, or by its two labels; where the file is transparent it is clear, and a file whose colours say
    nothing is its transparency.

    Raises
    ------
    InputError
        Not a whole image; its levels cannot be told to be a mask, as labels of several things or a
        grey picture: names the levels that were found.
    """
    values, notes = read_file(path, lambda opened: _of_file(opened, path))
    # an edge that is white and a hole in it: often a mask the wrong way round
    edge = np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]])
    if edge.mean() > 0.95 and values.mean() < 0.95:
        notes = (
            *notes,
            f"white at the whole edge and {_percent(1 - values.mean())} black inside: "
            "is it inverted? White is the subject",
        )
    elif values.min() == 1:
        notes = (*notes, "white everywhere: the whole picture counts")
    return MaskFile(torch.from_numpy(values)[None], notes)


def _percent(share: float) -> str:
    return f"{100 * float(share):.0f} %"


def _of_file(opened: Opened, path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    values, notes = _read(opened.image, path)
    return values, (*opened.notes, *notes)


def _read(image: Image.Image, path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the mask [h w] in [0, 1], float32, and notes."""
    mode = image.mode
    if mode == "1":
        return np.asarray(image).astype(np.float32), ()
    if mode == "I" or mode.startswith("I;16"):
        return _scaled(np.asarray(image), 65535, path)
    if mode == "F":
        return _scaled(np.asarray(image), 1, path)
    if image.has_transparency_data:
        return _with_alpha(np.asarray(image.convert("RGBA")), path)
    if mode == "L":
        return _scaled(np.asarray(image), 255, path)
    colours = np.asarray(image.convert("RGB"))
    if mode == "P" and _coloured(colours):
        return _scaled(np.asarray(image), 255, path, labels=True)
    return _scaled(_grey(colours, path), 255, path)


def _blocks(plane: np.ndarray) -> Iterator[slice]:
    """Yield the rows of a plane [h w ...] in parts of :data:`BLOCK` pixels."""
    rows = max(1, BLOCK // max(1, plane.shape[1]))
    for first in range(0, len(plane), rows):
        yield slice(first, first + rows)


def _with_alpha(planes: np.ndarray, path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the mask of levels [h w 4] of red, green, blue and opacity, and notes."""
    colours, alpha = planes[..., :3], planes[..., 3]
    if alpha.min() == 255:
        return _scaled(_grey(colours, path), 255, path)
    low, high = 255, 0
    for rows in _blocks(alpha):
        seen = colours[rows][alpha[rows] > 0]
        low, high = min(low, seen.min(initial=255)), max(high, seen.max(initial=0))
    if low < 64 and high > 191 and not _coloured(colours, alpha):
        grey, notes = _scaled(_brightness(colours) * (alpha > 0), 255, path)
        for rows in _blocks(grey):
            grey[rows] = grey[rows].astype(np.float64) * alpha[rows] / 255
        return grey, notes
    return _shares(alpha, 255), ("its transparency is the mask",)


def _coloured(colours: np.ndarray, alpha: np.ndarray | None = None) -> bool:
    """Return whether colours [h w 3] are no greys, of those that are seen where ``alpha`` [h w] is given."""
    coloured = count = 0
    for rows in _blocks(colours):
        red, green, blue = np.moveaxis(colours[rows], -1, 0)
        most, least = np.maximum(red, green), np.minimum(red, green)
        spread = np.maximum(most, blue) - np.minimum(least, blue)
        if alpha is not None:
            spread = spread[alpha[rows] > 0]
        coloured += int((spread > COLOURED).sum())
        count += spread.size
    return coloured > 0.01 * count


def _grey(colours: np.ndarray, path: Path) -> np.ndarray:
    """Return the brightness [h w] of colours [h w 3] in 0..255; of one colour on black, where that is."""
    if _coloured(colours):
        different = _different(colours)
        if len(different) == 2 and different[0] == 0:
            return np.asarray(colours.any(-1).astype(np.uint8) * np.uint8(255))
        raise InputError(
            f"{path} is no mask: it has {len(different)} colours; save the subject white on black, and "
            "labels of several things as a mask each"
        )
    return _brightness(colours)


def _brightness(colours: np.ndarray) -> np.ndarray:
    """Return the brightness [h w] of colours [h w 3], both in 0..255."""
    bright = np.empty(colours.shape[:2], np.uint8)
    for rows in _blocks(colours):
        bright[rows] = (colours[rows] @ BRIGHTNESS).round()
    return bright


def _different(colours: np.ndarray) -> np.ndarray:
    """Return the different colours of [h w 3] in 0..255, each as a number of 24 bits, the darkest first."""
    met = np.zeros(2**24, np.bool_)
    for rows in _blocks(colours):
        red, green, blue = np.moveaxis(colours[rows].astype(np.uint32), -1, 0)
        met[(red << 16) | (green << 8) | blue] = True
    return np.flatnonzero(met)


def _levels(levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the different levels, the lowest first, and how many pixels each has."""
    if levels.dtype not in (np.uint8, np.uint16):
        present, counts = np.unique(levels, return_counts=True)
        return present, counts
    counts = np.zeros(np.iinfo(levels.dtype).max + 1, np.int64)
    for rows in _blocks(levels):
        counts += np.bincount(levels[rows].ravel(), minlength=len(counts))
    present = np.flatnonzero(counts)
    return present, counts[present]


def _shares(levels: np.ndarray, most: int) -> np.ndarray:
    """Return levels [h w] of 0 to ``most`` as numbers in [0, 1], float32."""
    values = np.empty(levels.shape, np.float32)
    for rows in _blocks(levels):
        values[rows] = levels[rows] / np.float64(most)
    return values


def _scaled(
    levels: np.ndarray, most: int, path: Path, labels: bool = False
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return levels [h w] of 0 to ``most`` as a mask in [0, 1], float32, and notes."""
    if not np.isfinite(levels).all():
        raise InputError(f"{path} is no mask: it holds numbers that are not finite")
    present, counts = _levels(levels)
    low, high = present[0], present[-1]
    span = f"levels {low:g} to {high:g} of 0 to {most}"
    if low == high == 0:
        return np.zeros(levels.shape, np.float32), ()
    if low == high:
        if high not in (1, most):
            raise InputError(
                f"{path} is no mask: every pixel has the level {high:g} of 0 to {most}: save the "
                "subject white on black"
            )
        return np.ones(levels.shape, np.float32), ()
    if len(present) == 2 and low == 0:
        said = () if high == most else (f"levels 0 and {high:g}: {high:g} is read as the subject",)
        return (levels > 0).astype(np.float32), said
    shares = counts / levels.size
    between = [v for v, share in zip(present[1:-1], shares[1:-1], strict=True) if share >= LABEL]
    few = low == 0 and len(present) <= MANY
    if labels or (few and (len(between) > 1 or high < (1 - NEARLY) * most)):
        names = ", ".join(f"{v:g}" for v in present[:MANY])
        raise InputError(
            f"{path} holds {len(present)} labels ({names}): save the one that is the subject white on "
            "black, and others as a mask each"
        )
    if low > NEARLY * most or high < (1 - NEARLY) * most or high > most:
        raise InputError(
            f"{path} is no mask: it holds {span}, where black (0) is the ground and white ({most}) the "
            "subject: save it with the whole range"
        )
    grey = (present > NEARLY * most) & (present < (1 - NEARLY) * most)
    return _shares(levels, most), _in_part(float(shares[grey].sum()), few)


def _in_part(share: float, few: bool) -> tuple[str, ...]:
    """Return what a user should know of a mask of which a ``share`` is neither black nor white."""
    if few and share >= LABEL:
        return (f"{_percent(share)} of it is grey, and counts in part: is it a label of its own?",)
    if share > 0.5:
        return (f"{_percent(share)} of it is neither black nor white: is it a mask?",)
    return ()
