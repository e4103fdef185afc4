"""Reading one mask, whatever a painter, a segmentation tool or another trainer made of it."""

from __future__ import annotations

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
    return MaskFile(torch.from_numpy(values.astype(np.float32))[None], notes)


def _percent(share: float) -> str:
    return f"{100 * float(share):.0f} %"


def _of_file(opened: Opened, path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    values, notes = _read(opened.image, path)
    return values, (*opened.notes, *notes)


def _read(image: Image.Image, path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the mask [h w] in [0, 1] and notes."""
    mode = image.mode
    if mode == "1":
        return np.asarray(image).astype(np.float64), ()
    if mode == "I" or mode.startswith("I;16"):
        return _scaled(np.asarray(image).astype(np.float64), 65535, path)
    if mode == "F":
        return _scaled(np.asarray(image).astype(np.float64), 1, path)
    if image.has_transparency_data:
        return _with_alpha(np.asarray(image.convert("RGBA")).astype(np.float64), path)
    colours = np.asarray(image.convert("RGB"))
    if mode == "P" and _coloured(colours):
        return _scaled(np.asarray(image).astype(np.float64), 255, path, labels=True)
    return _scaled(_grey(colours, path), 255, path)


def _with_alpha(planes: np.ndarray, path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    colours, alpha = planes[..., :3], planes[..., 3]
    if alpha.min() == 255:
        return _scaled(_grey(colours, path), 255, path)
    seen = colours[alpha > 0]
    if len(seen) and not _coloured(seen[None]) and seen.min() < 64 and seen.max() > 191:
        grey, notes = _scaled(_grey(colours * (alpha > 0)[..., None], path), 255, path)
        return np.asarray(grey * alpha / 255), notes
    return np.asarray(alpha / 255), ("its transparency is the mask",)


def _coloured(colours: np.ndarray) -> bool:
    spread = colours.max(-1).astype(np.int64) - colours.min(-1)
    return bool((spread > COLOURED).mean() > 0.01)


def _grey(colours: np.ndarray, path: Path) -> np.ndarray:
    """Return the brightness [h w] of colours [h w 3] in 0..255; of one colour on black, where that is."""
    if _coloured(colours):
        different = np.unique(colours.reshape(-1, 3), axis=0)
        if len(different) == 2 and not different[0].any():
            return np.asarray(colours.any(-1) * 255.0)
        raise InputError(
            f"{path} is no mask: it has {len(different)} colours; save the subject white on black, and "
            "labels of several things as a mask each"
        )
    brightness: np.ndarray = colours @ np.array([0.299, 0.587, 0.114])
    return np.asarray(brightness.round())


def _scaled(
    levels: np.ndarray, most: int, path: Path, labels: bool = False
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return levels [h w] of 0 to ``most`` as a mask in [0, 1], and notes."""
    if not np.isfinite(levels).all():
        raise InputError(f"{path} is no mask: it holds numbers that are not finite")
    present = np.unique(levels)
    low, high = present[0], present[-1]
    span = f"levels {low:g} to {high:g} of 0 to {most}"
    if high == 0:
        return levels, ()
    if low == high:
        if high not in (1, most):
            raise InputError(
                f"{path} is no mask: every pixel has the level {high:g} of 0 to {most}: save the "
                "subject white on black"
            )
        return np.ones_like(levels), ()
    if len(present) == 2 and low == 0:
        said = () if high == most else (f"levels 0 and {high:g}: {high:g} is read as the subject",)
        return (levels > 0).astype(np.float64), said
    between = [v for v in present[1:-1] if (levels == v).mean() >= LABEL]
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
    return np.asarray(levels / most), _in_part(levels / most, few)


def _in_part(values: np.ndarray, few: bool) -> tuple[str, ...]:
    """Return what a user should know of a mask [h w] in [0, 1] that is much neither black nor white."""
    share = float(((values > NEARLY) & (values < 1 - NEARLY)).mean())
    if few and share >= LABEL:
        return (f"{_percent(share)} of it is grey, and counts in part: is it a label of its own?",)
    if share > 0.5:
        return (f"{_percent(share)} of it is neither black nor white: is it a mask?",)
    return ()
