"""The convolutional trunk of the metrics: 64 px pictures to a map of cells, small and quick on a CPU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIZE = 64
"""Side of the pictures that every metric looks at; larger ones are scaled down first."""
CELLS = 8
"""Side of the map that :class:`Trunk` returns."""


def prepare(images: Tensor) -> Tensor:
    """``[n, 3, h, w]`` in 0..1 of any size to ``[n, 3, 64, 64]`` in -1..1, differentiably."""
    x = images.float()
    if x.shape[-2:] != (SIZE, SIZE):
        x = F.interpolate(x, (SIZE, SIZE), mode="bilinear", align_corners=False, antialias=True)
    return x * 2 - 1


class Residual(nn.Module):
    """Two 3x3 convolutions and a way around them (He et al., arXiv:1512.03385)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """``[n, width, h, w]`` in and out."""
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(x + self.norm2(self.conv2(y)))


class Down(nn.Module):
    """A strided convolution to half (or a given part) of the side, normalised."""

    def __init__(self, width: int, to: int, kernel: int = 2, padding: int = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, to, kernel, 2, padding, bias=False)
        self.norm = nn.BatchNorm2d(to)

    def forward(self, x: Tensor) -> Tensor:
        """``[n, width, 2 h, 2 w]`` to ``[n, to, h, w]``."""
        return F.relu(self.norm(self.conv(x)))


class Trunk(nn.Module):
    """Residual stages at 32, 16, 8 and 4 cells; the last is laid over the third again.

    A cell of the map so knows its own eight pixels closely and the picture around them roughly.
    """

    def __init__(
        self,
        widths: Sequence[int] = (32, 64, 128, 256),
        depths: Sequence[int] = (1, 1, 1, 1),
        out: int = 192,
    ) -> None:
        super().__init__()
        self.stem = Down(3, widths[0], 4, 1)
        self.downs = nn.ModuleList(Down(a, b) for a, b in zip(widths[:-1], widths[1:], strict=True))
        self.stages = nn.ModuleList(
            nn.Sequential(*(Residual(w) for _ in range(n)))
            for w, n in zip(widths, depths, strict=True)
        )
        self.join = nn.Conv2d(widths[-2] + widths[-1], out, 1, bias=False)
        self.join_norm = nn.BatchNorm2d(out)
        self.width = out

    def forward(self, x: Tensor) -> Tensor:
        """``[n, 3, 64, 64]`` in -1..1 to ``[n, width, 8, 8]``."""
        x = self.stages[0](self.stem(x))
        fine = x
        for down, stage in zip(self.downs, self.stages[1:], strict=True):
            fine, x = x, stage(down(x))
        around = F.interpolate(x, scale_factor=2, mode="nearest")
        return F.relu(self.join_norm(self.join(torch.cat([fine, around], 1))))


class Embedder(nn.Module):
    """A trunk, pooled by mean and by maximum, to a vector of unit length."""

    def __init__(
        self,
        size: int = 128,
        widths: Sequence[int] = (24, 48, 96, 160),
        depths: Sequence[int] = (1, 1, 1, 1),
    ) -> None:
        super().__init__()
        self.trunk = Trunk(widths, depths, 128)
        self.project = nn.Linear(2 * self.trunk.width, size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[n, 3, 64, 64]`` in -1..1 to ``[n, size]`` of unit length."""
        cells = self.trunk(x)
        pooled = torch.cat([cells.mean((2, 3)), cells.amax((2, 3))], 1)
        return F.normalize(self.project(pooled).float(), dim=-1)
