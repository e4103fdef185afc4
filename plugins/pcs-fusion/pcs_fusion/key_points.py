"""Pictures of a face's five key points, which a control branch reads (InstantID, arXiv:2401.07519, 3.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

COLOURS = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (1.0, 1.0, 0.0), (1.0, 0.0, 1.0))
"""Of the five points: left eye, right eye, nose, left and right corner of the mouth."""
LIMBS = ((0, 2), (1, 2), (3, 2), (4, 2))
"""Pairs of points that the released drawing joins, each in the colour of its first: all end at the nose."""
DIMMED = 0.6
"""Factor of the limbs' colours; the discs above them keep theirs."""
ABSENT = -1.0
"""A point with a coordinate below this was not found (pictures begin at 0)."""


def draw_points(points: Tensor, size: tuple[int, int], radius: float) -> Tensor:
    """Return black pictures [b 3 h w] with a coloured disc at each point [b 5 2], x and y in [0, 1].

    ``radius`` is a share of the height. A point outside the picture draws nothing; where discs meet their
    colours add up.
    """
    inside = discs(points, size, radius).float()
    colours = torch.tensor(COLOURS, device=points.device)[: points.shape[1]]
    return torch.einsum("bnhw,nc->bchw", inside, colours).clamp(0, 1)


def draw_face(points: Tensor, size: tuple[int, int], radius: float, stick: float) -> Tensor:
    """Return black pictures [b 3 h w] of five points [b 5 2] as the released code draws them.

    ``draw_kps`` in ``pipeline_stable_diffusion_xl_instantid.py``: a dimmed ellipse from each point to the
    nose, as long as their distance, then a disc on every point; what comes later covers what is there.
    ``radius`` of the discs and ``stick``, half the ellipses' width, are shares of the height: there 10 and 4
    pixels of about 1024. A limb with an absent end is left out.
    """
    picture = points.new_zeros(points.shape[0], 3, *size)
    colours = torch.tensor(COLOURS, device=points.device, dtype=points.dtype).view(5, 1, 3, 1, 1)
    for first, second in LIMBS:
        limb = ellipse(points[:, first], points[:, second], size, stick)
        picture = torch.where(limb[:, None], DIMMED * colours[first], picture)
    for index, disc in enumerate(discs(points, size, radius).unbind(1)):
        picture = torch.where(disc[:, None], colours[index], picture)
    return picture


def grid(size: tuple[int, int], like: Tensor) -> tuple[Tensor, Tensor]:
    """Return x [1 w] and y [h 1] of the pixels' centres, in heights of the picture."""
    height, width = size
    y = (torch.arange(height, device=like.device) + 0.5) / height
    x = (torch.arange(width, device=like.device) + 0.5) / height
    return x.view(1, -1), y.view(-1, 1)


def in_heights(points: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return x and y [... 1 1] of points [... 2] in [0, 1], in heights of the picture."""
    x, y = points[..., 0] * size[1] / size[0], points[..., 1]
    return x[..., None, None], y[..., None, None]


def discs(points: Tensor, size: tuple[int, int], radius: float) -> Tensor:
    """Return whether each pixel lies in the disc of each point: [b n h w] of [b n 2]."""
    x, y = grid(size, points)
    px, py = in_heights(points, size)
    return (x - px).square() + (y - py).square() < radius**2


def ellipse(first: Tensor, second: Tensor, size: tuple[int, int], stick: float) -> Tensor:
    """Return whether each pixel [b h w] lies in the ellipse between two points [b 2] each.

    Its long axis is their distance, its short one ``2 * stick``.
    """
    x, y = grid(size, first)
    (ax, ay), (bx, by) = in_heights(first, size), in_heights(second, size)
    dx, dy = ax - bx, ay - by
    length = (dx.square() + dy.square()).sqrt().clamp_min(1e-6)
    rx, ry = x - (ax + bx) / 2, y - (ay + by) / 2
    along, across = (rx * dx + ry * dy) / length, (ry * dx - rx * dy) / length
    inside = (2 * along / length).square() + (across / stick).square() <= 1
    there = (torch.stack([first, second]) >= ABSENT).all(dim=(0, 2))
    return inside & there[:, None, None]
