"""A radiance field on a grid of voxels, and its picture by volume rendering (NeRF, arXiv:2003.08934)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from pcs_core.data import HeadEdit
from pcs_three_d.cameras import Camera, rays

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Generator, Tensor

REACH = math.sqrt(3.0)
"""From the centre to a corner of the scene."""


@dataclass(frozen=True, slots=True)
class View:
    """What cameras see: ``image`` [n 3 h w] in [0, 1], ``opacity`` [n 1 h w], ``orientation`` [n].

    ``orientation`` is how much of what is seen faces away from the camera (Ref-NeRF,
    arXiv:2112.03907, equation 11).
    """

    image: Tensor
    opacity: Tensor
    orientation: Tensor


class Field(HeadEdit):
    """Density and colour of the cube [-1, 1]^3 on a grid of ``cells``^3 points, before a solid background.

    ``density`` [1 cells^3] is added to a ball that every fit starts from; ``colour`` [3 cells^3] and
    ``background`` [3] are logits.
    """

    def __init__(self, cells: int, start: Tensor, ball: float = 10.0, radius: float = 0.5) -> None:
        super().__init__("field")
        self.cells, self.ball, self.radius = cells, ball, radius
        self.density = nn.Parameter(torch.zeros(1, cells, cells, cells))
        self.colour = nn.Parameter(start)
        self.background = nn.Parameter(torch.zeros(3))

    def grid(self) -> Tensor:
        """Return density logits, colour logits and outward normals [1 7 cells^3] at the grid's points.

        Axes are z, y, x, as grid_sample wants them.
        """
        at = torch.linspace(-1.0, 1.0, self.cells, device=self.density.device)
        z, y, x = torch.meshgrid(at, at, at, indexing="ij")
        distance = (x.square() + y.square() + z.square()).sqrt()
        density = self.density + self.ball * (1.0 - distance / self.radius)
        # the density itself saturates, its logit does not
        slope = torch.stack(torch.gradient(density[0], spacing=2.0 / (self.cells - 1))[::-1])
        normal = -F.normalize(slope, dim=0, eps=1e-4)
        return torch.cat([density, self.colour, normal])[None]

    def look(
        self,
        cameras: Sequence[Camera],
        size: int,
        samples: int,
        *,
        rng: Generator | None = None,
        backgrounds: Tensor | None = None,
        light: Sequence[float] | None = None,
        textureless: Sequence[bool] | None = None,
    ) -> View:
        """Return what ``cameras`` see in pictures of ``size`` pixels, by ``samples`` points a ray.

        ``rng`` shifts the points of each ray at random; ``backgrounds`` [n 3] stand in for the own one
        where they are not nan; ``light`` is the share of light, per camera, that depends on the angle
        of the surface (0: the bare colour); ``textureless`` shows the shape alone.
        """
        device, n = self.density.device, len(cameras)
        origin, direction = (t.to(device) for t in rays(cameras, size))
        away = torch.tensor([c.distance for c in cameras], device=device)[:, None, None, None]
        width = 2 * REACH / samples
        shift = torch.full((n, size, size, 1), 0.5)
        if rng is not None:
            shift = torch.rand(n, size, size, 1, generator=rng)
        along = (torch.arange(samples) + shift).to(device) * width - REACH + away
        points = origin[..., None, :] + along[..., None] * direction[..., None, :]
        inside = (points.abs() <= 1.0).all(dim=-1)
        sampled = F.grid_sample(
            self.grid(), points.reshape(1, -1, 1, 1, 3), align_corners=True, padding_mode="border"
        )
        density, colour, normal = sampled.view(7, n, size, size, samples).split([1, 3, 3])
        alpha = 1 - torch.exp(-F.softplus(density[0]) * inside * width)
        clear = torch.cumprod(1 - alpha + 1e-10, dim=-1)
        weight = alpha * torch.cat([torch.ones_like(clear[..., :1]), clear[..., :-1]], dim=-1)
        normal = F.normalize(normal, dim=0, eps=1e-4)
        facing = (normal * direction.movedim(-1, 0)[..., None]).sum(
            0
        )  # negative towards the camera
        albedo = torch.sigmoid(colour)
        if textureless is not None:
            bare = torch.tensor(list(textureless), device=device).view(1, n, 1, 1, 1)
            albedo = torch.where(bare, torch.ones_like(albedo), albedo)
        if light is not None:  # the lamp stands where the camera does
            share = torch.tensor(list(light), device=device).view(n, 1, 1, 1)
            albedo = albedo * (1 - share + share * (-facing).clamp_min(0.0))
        opacity = weight.sum(-1)
        behind = torch.sigmoid(self.background).expand(n, 3)
        if backgrounds is not None:
            given = backgrounds.to(device)
            behind = torch.where(given.isnan(), behind, given.nan_to_num())
        seen = (weight * albedo).sum(-1).movedim(0, 1)
        image = seen + (1 - opacity)[:, None] * behind[:, :, None, None]
        turned = (weight.detach() * facing.clamp_min(0.0).square()).sum(-1).mean(dim=(1, 2))
        return View(image.clamp(0.0, 1.0), opacity[:, None], turned)
