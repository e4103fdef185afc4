"""A face brought to the pose that recognisers were trained on, by its five key points (arXiv:1801.07698, 4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from torch import Tensor

SIDE = 112
"""Pixels of an aligned face across and down."""
TEMPLATE = (
    (38.2946, 51.6963),
    (73.5318, 51.5014),
    (56.0252, 71.7366),
    (41.5493, 92.3655),
    (70.7299, 92.2041),
)
"""Where the key points stand there, x and y in pixels: eyes, nose, corners of the mouth."""


def similarity(source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the 2 x 2 matrix M and the shift t [2] with least squares of ``M source + t - target``.

    M is a rotation times a scale, never a mirror (Umeyama, 1991, equations 40 to 42). Points are [n 2].
    """
    source, target = source.double(), target.double()
    a, b = source - source.mean(0), target - target.mean(0)
    left, strengths, right = torch.linalg.svd(b.T @ a / len(source))
    signs = torch.ones(2, dtype=source.dtype)
    signs[1] = torch.sign(torch.linalg.det(left @ right))
    turn = left @ torch.diag(signs) @ right
    scale = (strengths * signs).sum() / a.square().sum(1).mean().clamp_min(1e-12)
    matrix = scale * turn
    return matrix, target.mean(0) - matrix @ source.mean(0)


def aligned(image: Tensor, points: Tensor, side: int = SIDE) -> Tensor:
    """Return the face [3 side side] of a picture [3 h w], by five points [5 2] in parts of the picture.

    Linear between pixels, black outside the picture.
    """
    height, width = image.shape[-2:]
    # a pixel's centre is its index, as where the template was measured
    pixels = points.double() * torch.tensor([width, height]).double() - 0.5
    matrix, shift = similarity(pixels, torch.tensor(TEMPLATE) * (side / SIDE))
    index = torch.arange(side).double()
    target = torch.stack(torch.meshgrid(index, index, indexing="xy"), dim=-1) - shift
    place = target @ torch.linalg.inv(matrix).T
    size = torch.tensor([width, height]).double()
    grid = ((2 * place + 1) / size - 1).to(image)
    return F.grid_sample(image[None], grid[None], mode="bilinear", align_corners=False)[0]
