"""Pictures of a folder, read from their files each time they are looked at, and masks, kept packed."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_core.data.later import Later
from pcs_core.errors import InputError
from pcs_folders.images import Picture, read_picture, reduced

AT_HAND = 2
"""Pictures that stay in memory after they were looked at."""
Size = tuple[int, int]
Stamp = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Looked:
    """``rgb`` [3 h w] and ``alpha`` [1 h w] or None, to be read from the file; ``size`` the file's own."""

    rgb: Any
    alpha: Any
    size: Size


def looked(path: Path, picture: Picture, size: Size | None) -> Looked:
    """Return a picture that was read once, to be read again; with no ``size`` it is kept as it is."""
    if size is None:
        return Looked(picture.rgb, picture.alpha, picture.size)
    at = stamp(path)
    alpha = picture.alpha
    return Looked(
        Later(picture.rgb.shape, partial(_rgb, path, size, at)),
        None if alpha is None else Later(alpha.shape, partial(_alpha, path, size, at)),
        picture.size,
    )


def packed_mask(mask: Tensor) -> Later:
    """Return a mask [1 h w] to be kept packed.

    Its levels are counted when it is read, which takes longer than a picture; flat areas pack well.
    """
    packed = zlib.compress(mask.contiguous().numpy().tobytes(), 1)
    return Later(mask.shape, partial(_unpacked, packed, tuple(mask.shape)))


def kept_mask(values: Tensor, whole: Size, size: Size | None) -> Tensor:
    """Return a mask [1 h w] at the size at which its picture of ``whole`` is read."""
    if tuple(values.shape[-2:]) != whole:
        values = F.interpolate(
            values[None], whole, mode="bilinear", antialias=True, align_corners=False
        )[0].clamp(0, 1)
    return reduced(values, whole, size)


def stamp(path: Path) -> Stamp:
    """Return what changes when a file is written."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _rgb(path: Path, size: Size, at: Stamp) -> Tensor:
    return _picture(path, size, at).rgb


def _alpha(path: Path, size: Size, at: Stamp) -> Tensor:
    alpha = _picture(path, size, at).alpha
    assert alpha is not None  # it had one, and is the same file
    return alpha


@lru_cache(maxsize=AT_HAND)
def _picture(path: Path, size: Size, at: Stamp) -> Picture:
    _check_same(path, at)
    return read_picture(path, size)


def _unpacked(packed: bytes, shape: tuple[int, ...]) -> Tensor:
    return torch.frombuffer(bytearray(zlib.decompress(packed)), dtype=torch.float32).view(shape)


def _check_same(path: Path, at: Stamp) -> None:
    """Refuse a file that is another than the one that was looked at first.

    Raises
    ------
    InputError
        Names it.
    """
    try:
        same = stamp(path) == at
    except OSError as error:
        raise InputError(f"{path} was removed while it was in use: start anew") from error
    if not same:
        raise InputError(f"{path} was changed while it was in use: start anew")
