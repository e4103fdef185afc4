"""What adapters read of a metric: tokens of a picture, and a vector of what stands in it.

Metrics are trained to see through changes of light and colour. An adapter has to paint what it is shown, so
the colours of each cell stand beside what the trunk makes of it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_mini.metrics.trunk import CELLS, SIZE, prepare

SHADES = 4
"""Side of the patch of colours that a cell brings along."""
LOOK = 6
"""Side of the small picture of the subject in a pooled vector."""
REACH = 1.9
"""Half a side of the subject's box in standard deviations of its cells (1.73 for a filled square)."""


def tokens_of(trunk: Any, x: Tensor) -> Tensor:
    """Return ``[n, 64, width + 48]`` of prepared pictures ``[n, 3, 64, 64]``: a token a cell, row by row."""
    small = F.avg_pool2d(x, SIZE // (CELLS * SHADES))
    colours = F.pixel_unshuffle(small, SHADES)
    return torch.cat([trunk(x).float(), colours], 1).flatten(2).mT


def subject_vector(x: Tensor, tokens: Tensor, subject: Tensor) -> Tensor:
    """Return ``[n, 2 width + 108]``: tokens ``[n, 64, width]`` of the subject, and how it looks.

    ``subject`` ``[n, 64]`` says how sure each cell is of being part of it. The tokens give their weighted
    mean and their maximum; the look is a picture of 6 x 6 cut from ``x`` where the subject is.
    """
    share = subject / subject.sum(1, keepdim=True).clamp_min(1e-6)
    mean = (tokens * share[..., None]).sum(1)
    most = (tokens * subject[..., None]).amax(1)
    at = (torch.arange(CELLS, device=x.device) + 0.5) / CELLS * 2 - 1
    grid = torch.stack([at.repeat(CELLS), at.repeat_interleave(CELLS)], -1)
    centre = (share[..., None] * grid).sum(1)
    spread = (share[..., None] * (grid - centre[:, None]).square()).sum(1).sqrt()
    half = (REACH * spread).clamp(1 / CELLS, 1.0)
    rows = x.shape[0]  # not len(): it would close a graph
    theta = torch.zeros(rows, 2, 3, device=x.device)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = half[:, 0], half[:, 1], centre
    # drawn at twice the side and averaged, so that no pixel is passed over
    where = F.affine_grid(theta, [rows, 3, 4 * LOOK, 4 * LOOK], align_corners=False)
    look = F.avg_pool2d(F.grid_sample(x, where, padding_mode="border", align_corners=False), 4)
    return torch.cat([mean, most, look.flatten(1)], 1)


class EncodesCells:
    """``patches`` and ``pooled`` of a metric with an :class:`~pcs_mini.metrics.trunk.Embedder`."""

    net: Any

    def _prepared(self, images: Tensor) -> Tensor:
        return prepare(images.to(next(self.net.parameters()).device))

    @torch.no_grad()
    def patches(self, images: Tensor) -> Tensor:
        """``[n, 65, 176]``: the embedding, filled up with zeros, and then a token a cell."""
        x = self._prepared(images)
        tokens = tokens_of(self.net.trunk, x)
        whole = self.net(x)
        return torch.cat([F.pad(whole, (0, tokens.shape[2] - whole.shape[1]))[:, None], tokens], 1)

    @torch.no_grad()
    def pooled(self, images: Tensor) -> Tensor:
        """``[n, 128]`` of unit norm: the embedding."""
        features: Tensor = self.net(self._prepared(images))
        return features
