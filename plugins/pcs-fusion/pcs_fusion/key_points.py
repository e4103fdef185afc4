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
EDGE = 0.5
"""Pixels by which the released drawing's shapes reach further: OpenCV fills what an outline touches."""
ABSENT = -1.0
"""A point with a coordinate below this was not found (pictures begin at 0)."""


def draw_points(points: Tensor, size: tuple[int, int], radius: float) -> Tensor:
    """Return black pictures [b 3 h w] with a coloured disc at each point [b 5 2], x and y in [0, 1].

    ``radius`` is a share of the height. A point outside the picture draws nothing; where discs meet their
    colours add up.
    """
    height, width = size
    y = (torch.arange(height, device=points.device) + 0.5) / height
    x = (torch.arange(width, device=points.device) + 0.5) / width
    dx = (x.view(1, 1, 1, -1) - points[..., 0].view(*points.shape[:2], 1, 1)) * width / height
    dy = y.view(1, 1, -1, 1) - points[..., 1].view(*points.shape[:2], 1, 1)
    inside = (dx.square() + dy.square() < radius**2).float()
    colours = torch.tensor(COLOURS, device=points.device)[: points.shape[1]]
    return torch.einsum("bnhw,nc->bchw", inside, colours).clamp(0, 1)


def draw_face(points: Tensor, size: tuple[int, int], radius: float, stick: float) -> Tensor:
    """Return black pictures [b 3 h w] of five points [b 5 2] as the released code draws them.

    ``draw_kps`` in ``pipeline_stable_diffusion_xl_instantid.py``: a dimmed ellipse from each point to the
    nose, as long as their distance, then a disc on every point; what comes later covers what is there.
    Places, half lengths and angles are whole pixels and degrees, as there. ``radius`` of the discs and
    ``stick``, half the ellipses' width, are shares of the height: there 10 and 4 pixels of about 1024. A
    limb with an absent end is left out.
    """
    picture = points.new_zeros(points.shape[0], 3, *size)
    colours = torch.tensor(COLOURS, device=points.device, dtype=points.dtype).view(5, 1, 3, 1, 1)
    pixels = points * points.new_tensor([size[1], size[0]])
    for first, second in LIMBS:
        ends = pixels[:, (first, second)]
        there = (points[:, (first, second)] >= ABSENT).flatten(1).all(1)
        limb = ellipse(ends, size, stick * size[0]) & there[:, None, None]
        picture = torch.where(limb[:, None], DIMMED * colours[first], picture)
    for index in range(points.shape[1]):
        dx, dy = away(pixels[:, index].floor(), size)
        disc = dx.square() + dy.square() <= (radius * size[0] + EDGE) ** 2
        picture = torch.where(disc[:, None], colours[index], picture)
    return picture


def away(place: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return how far each pixel lies right of and below ``place`` [b 2], [b 1 w] and [b h 1] pixels."""
    x = torch.arange(size[1], device=place.device).view(1, 1, -1) - place[:, 0].view(-1, 1, 1)
    y = torch.arange(size[0], device=place.device).view(1, -1, 1) - place[:, 1].view(-1, 1, 1)
    return x, y


def ellipse(ends: Tensor, size: tuple[int, int], stick: float) -> Tensor:
    """Return whether each pixel [b h w] lies in the ellipse between ``ends`` [b 2 2], in pixels.

    Its long axis is their distance, its short one ``2 * stick`` pixels.
    """
    dx, dy = (ends[:, 0] - ends[:, 1]).unbind(1)
    half = (torch.hypot(dx, dy) / 2).floor().clamp_min(1).view(-1, 1, 1)
    angle = torch.deg2rad(torch.rad2deg(torch.atan2(dy, dx)).trunc()).view(-1, 1, 1)
    x, y = away(ends.mean(1).trunc(), size)
    along, across = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
    return (along / half).square() + (across / (stick + EDGE)).square() <= 1
