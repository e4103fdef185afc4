"""FLUX's tokens: patches of latents, and the places that the transformer is told for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from torch import Tensor

PATCH = 2
"""Latents of a side that one token of the transformer holds."""


def packed(latents: Tensor) -> Tensor:
    """Return latents [b c h w] as tokens [b h/2*w/2 c*4]."""
    b, c, h, w = latents.shape
    tiles = latents.reshape(b, c, h // PATCH, PATCH, w // PATCH, PATCH)
    return tiles.permute(0, 2, 4, 1, 3, 5).reshape(b, -1, c * PATCH**2)


def unpacked(tokens: Tensor, height: int, width: int) -> Tensor:
    """Return tokens [b height*width c*4] as latents [b c 2*height 2*width]."""
    b, _, c = tokens.shape
    tiles = tokens.reshape(b, height, width, c // PATCH**2, PATCH, PATCH)
    return tiles.permute(0, 3, 1, 4, 2, 5).reshape(b, -1, height * PATCH, width * PATCH)


def grid_ids(
    height: int,
    width: int,
    device: torch.device,
    start: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Tensor:
    """Return the places [height*width 3] of a grid of tokens, its first one at ``start``."""
    rows, columns = (torch.arange(n, device=device, dtype=torch.float32) for n in (height, width))
    first, row, column = start
    places = torch.cartesian_prod(rows + row, columns + column)
    return F.pad(places, (1, 0), value=first)
