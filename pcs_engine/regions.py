"""A layout as tensors: a mask per box at the size of the latents, the points, and the control picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import Layout


def layout_masks(
    layout: Layout, size: tuple[int, ...], rows: int, device: torch.device
) -> dict[str, Tensor]:
    """Return ``box.<k>`` [rows 1 h w], 1 inside the k-th box; a box covers at least one cell."""
    height, width = size
    masks = {}
    for k, box in enumerate(layout.boxes):
        left, top, right, bottom = box.box
        mask = torch.zeros(1, 1, height, width, device=device)
        y, x = min(int(top * height), height - 1), min(int(left * width), width - 1)
        below, beside = max(y + 1, round(bottom * height)), max(x + 1, round(right * width))
        mask[..., y:below, x:beside] = 1.0
        masks[f"box.{k}"] = mask.expand(rows, -1, -1, -1)
    return masks


def layout_points(layout: Layout, rows: int, device: torch.device) -> Tensor:
    """Return the points [rows n 2], x and y in [0, 1]."""
    return torch.tensor(layout.points, device=device).expand(rows, -1, -1)


def layout_picture(
    layout: Layout, size: tuple[int, int], rows: int, device: torch.device
) -> Tensor:
    """Return the control picture [rows 3 *size] in [0, 1], its whole scaled to ``size`` (height, width)."""
    assert layout.picture is not None
    picture = layout.picture.to(device, torch.float32)[None]
    if tuple(picture.shape[-2:]) != tuple(size):
        picture = F.interpolate(picture, size, mode="bicubic", antialias=True).clamp(0, 1)
    return picture.expand(rows, -1, -1, -1)
