"""References as an encoder is shown them: cut to a subject, put on another background, made square."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from torch import Tensor

Background = Literal["keep", "white", "random"]
Square = Literal["white", "black", "centre"]


def on_background(image: Tensor, mask: Tensor, kind: Background, seed: int) -> Tensor:
    """Return ``image`` [3 h w] with another background outside ``mask`` [1 h w], values in [0, 1].

    "white", or "random": every channel of every pixel a byte of 0 to 254, uniform (FastComposer's
    ``RandomSegmentProcessor``), the same for a picture and ``seed`` whenever it is asked for.
    """
    if kind == "keep":
        return image
    if kind == "white":
        return image * mask + (1 - mask)
    # a generator takes 32 bits of its seed: both are in them
    image_seed = zlib.crc32(image.detach().cpu().contiguous().numpy().tobytes(), seed % 2**32)
    rng = torch.Generator().manual_seed(image_seed)
    noise = torch.randint(0, 255, image.shape, generator=rng).to(image) / 255
    return torch.where(mask > 0.5, image, noise)


def cut(image: Tensor, mask: Tensor) -> Tensor:
    """Return the smallest box of ``image`` [3 h w] that holds ``mask`` [1 h w]; all of it without one."""
    inside = mask[0] > 0.5
    if not bool(inside.any()):
        return image
    rows, columns = inside.any(1).nonzero(), inside.any(0).nonzero()
    return image[:, int(rows[0]) : int(rows[-1]) + 1, int(columns[0]) : int(columns[-1]) + 1]


def square(image: Tensor, size: tuple[int, int], kind: Square) -> Tensor:
    """Return ``image`` [3 h w] as [3 *size], its shape kept.

    "white" and "black" put bars at its sides and scale linearly; "centre" scales its shorter side
    bicubically and takes the middle, as CLIP's own preprocessing does.
    """
    if kind == "centre":
        scale = max(size[0] / image.shape[-2], size[1] / image.shape[-1])
        shape = [max(s, int(n * scale + 1e-6)) for s, n in zip(size, image.shape[-2:], strict=True)]
        image = F.interpolate(image[None], shape, mode="bicubic", antialias=True)[0].clamp(0, 1)
        top, left = (shape[0] - size[0]) // 2, (shape[1] - size[1]) // 2
        return image[:, top : top + size[0], left : left + size[1]]
    side = max(image.shape[-2:])
    top, left = (side - image.shape[-2]) // 2, (side - image.shape[-1]) // 2
    bars = (left, side - image.shape[-1] - left, top, side - image.shape[-2] - top)
    padded = F.pad(image, bars, value=1.0 if kind == "white" else 0.0)
    return F.interpolate(padded[None], size, mode="bilinear", antialias=True, align_corners=False)[
        0
    ]
