"""The network of a T2I-Adapter: maps of a control picture for the blocks of a UNet (arXiv:2302.08453, 3.3).

The three published forms, as in diffusers' ``T2IAdapter``, whose names the tensors have: the full one (each map
half as large as the one before), that of SDXL (16 pixels a cell from the start, halved once) and the light one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch.nn.functional as F
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

Form = Literal["full", "xl", "light"]
CELL: dict[str, int] = {"full": 8, "xl": 16, "light": 8}
"""Pixels, along a side, of a cell of the first map."""
XL_HALVED = 2
"""The one map of SDXL's form that is half as large as the one before."""
LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in a grey picture (ITU-R BT.601, as Pillow's mode L)."""


class Residual(nn.Module):
    """Two convolutions with a ReLU between them, added to their input; the second has a ``kernel``."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.block1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.block2 = nn.Conv2d(channels, channels, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return x + conv(relu(conv(x)))."""
        changed: Tensor = self.block2(F.relu(self.block1(x)))
        return x + changed


class Level(nn.Module):
    """One map: perhaps halved, brought to other channels, and several residuals.

    The light form works at a quarter of the map's channels, and begins and ends with a convolution.
    """

    def __init__(self, before: int, width: int, depth: int, *, halved: bool, light: bool) -> None:
        super().__init__()
        inner = width // 4 if light else width
        self.halved = halved
        self.in_conv = nn.Conv2d(before, inner, 1) if light or before != width else None
        self.resnets = nn.Sequential(*[Residual(inner, 3 if light else 1) for _ in range(depth)])
        self.out_conv = nn.Conv2d(inner, width, 1) if light else None

    def forward(self, x: Tensor) -> Tensor:
        """Return the map [b width h w] of the one before."""
        if self.halved:
            x = F.avg_pool2d(x, 2, 2, ceil_mode=True)
        if self.in_conv is not None:
            x = self.in_conv(x)
        x = self.resnets(x)
        return x if self.out_conv is None else self.out_conv(x)


class PictureMaps(nn.Module):
    """A picture's maps of ``widths`` channels, by ``depth`` residuals each.

    ``channels`` 3 read its colours, 1 its luminance.

    ``forward`` takes pictures [b 3 h w] in [0, 1], whose sides are multiples of :attr:`cell` pixels.
    """

    def __init__(self, form: Form, widths: Sequence[int], *, channels: int, depth: int) -> None:
        super().__init__()
        self.channels, self.cell = channels, CELL[form]
        read, light = channels * self.cell**2, form == "light"
        self.conv_in = None if light else nn.Conv2d(read, widths[0], 3, padding=1)
        before = [read if light else widths[0], *widths]
        self.body = nn.ModuleList(
            Level(
                before[index],
                width,
                depth,
                halved=index == XL_HALVED if form == "xl" else index > 0,
                light=light,
            )
            for index, width in enumerate(widths)
        )

    def forward(self, picture: Tensor) -> list[Tensor]:
        """Return the maps, the finest first."""
        if self.channels == 1:
            picture = (picture * picture.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
        x = F.pixel_unshuffle(picture, self.cell)
        if self.conv_in is not None:
            x = self.conv_in(x)
        maps = []
        for level in self.body:
            x = level(x)
            maps.append(x)
        return maps
