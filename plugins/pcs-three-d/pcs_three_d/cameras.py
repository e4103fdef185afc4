"""Cameras that look at the origin from around it, and what a caption calls their view."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Generator, Tensor


@dataclass(frozen=True, slots=True)
class Camera:
    """``azimuth`` around the upright axis, 0 in front; ``elevation``, ``field`` of view: degrees.

    ``distance`` from the origin; the scene fills the cube [-1, 1]^3.
    """

    azimuth: float
    elevation: float = 15.0
    distance: float = 3.0
    field: float = 40.0

    @property
    def position(self) -> tuple[float, float, float]:
        """Where it stands: x to the front, y to the side, z up."""
        a, e = math.radians(self.azimuth), math.radians(self.elevation)
        return (
            self.distance * math.cos(e) * math.cos(a),
            self.distance * math.cos(e) * math.sin(a),
            self.distance * math.sin(e),
        )


def draw_camera(
    rng: Generator, elevation: Sequence[float], distance: Sequence[float], field: Sequence[float]
) -> Camera:
    """Return a camera of random azimuth; the ranges are (least, most)."""
    share = torch.rand(4, generator=rng).tolist()
    ranges = [(-180.0, 180.0), elevation, distance, field]
    return Camera(*(low + (high - low) * s for (low, high), s in zip(ranges, share, strict=True)))


def view(camera: Camera) -> int:
    """Return 0 front, 1 side, 2 back, 3 overhead (above 60 degrees), as in section 3.2 of the paper."""
    if camera.elevation > 60.0:
        return 3
    turned = abs((camera.azimuth + 180.0) % 360.0 - 180.0)
    return 0 if turned <= 45.0 else 1 if turned < 135.0 else 2


def rays(cameras: Sequence[Camera], size: int) -> tuple[Tensor, Tensor]:
    """Return origins [n 1 1 3] and unit directions [n size size 3] through the pixels' centres."""
    position = torch.tensor([c.position for c in cameras])
    forward = torch.nn.functional.normalize(-position, dim=-1)
    # straight from above, "up" says nothing: the side then follows the azimuth
    side = torch.tensor(
        [[-math.sin(a), math.cos(a), 0.0] for a in (math.radians(c.azimuth) for c in cameras)]
    )
    up = torch.linalg.cross(side, forward)
    half = torch.tensor([math.tan(math.radians(c.field) / 2) for c in cameras])
    at = (torch.arange(size) + 0.5) / size * 2 - 1
    v, u = torch.meshgrid(-at, at, indexing="ij")
    across = u[None, :, :, None] * side[:, None, None] + v[None, :, :, None] * up[:, None, None]
    direction = forward[:, None, None] + half[:, None, None, None] * across
    return position[:, None, None], torch.nn.functional.normalize(direction, dim=-1)
