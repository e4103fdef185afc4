"""From changes at the backbone's size to protected pictures at their own, in whole levels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from torch import Tensor


def largest_change(eps: float) -> int:
    """Return how many of 255 levels a channel may change under ``eps``, for pixels in [-1, 1]."""
    return math.floor(127.5 * eps + 1e-9)


def spread(delta: Tensor, size: tuple[int, int]) -> Tensor:
    """Return a change [c h w] of the centre crop a network saw as one [c H W] of the whole picture.

    A fit scales a picture of ``size`` (H, W) until it covers the network's, and crops its centre: this
    undoes both. Outside of the crop the change at its border goes on: another crop is protected too, and a
    shared cast has no visible edge.
    """
    height, width = delta.shape[-2:]
    scale = max(height / size[0], width / size[1])
    covered = max(height, round(size[0] * scale)), max(width, round(size[1] * scale))
    top, left = (covered[0] - height) // 2, (covered[1] - width) // 2
    sides = left, covered[1] - width - left, top, covered[0] - height - top
    whole = F.pad(delta[None], sides, mode="replicate")[0]
    if covered == size:
        return whole
    shrinks = size[0] < covered[0]
    return F.interpolate(
        whole[None], size=size, mode="bilinear", align_corners=False, antialias=shrinks
    )[0]


def protect(levels: Tensor, delta: Tensor, eps: float) -> Tensor:
    """Return levels [3 H W] (uint8) changed by ``delta`` [3 h w] in [-1, 1], times ``eps``.

    No channel differs by more than :func:`largest_change` levels.
    """
    most = largest_change(eps)
    change = (spread(delta, tuple(levels.shape[-2:])) * eps * 127.5).round().clamp(-most, most)  # type: ignore[arg-type]
    return (levels.to(torch.int32) + change.to(torch.int32)).clamp(0, 255).to(torch.uint8)
