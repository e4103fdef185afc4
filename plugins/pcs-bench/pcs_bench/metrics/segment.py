"""Where the subject of a drawn picture is, told by contrast with the border of the picture."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate


def border_contrast(pictures: Tensor, size: int = 64) -> Tensor:
    """Return masks [n 1 h w], 0 or 1: pixels unlike the border beside them.

    The border is background, as in saliency from boundary priors (Wei et al., ECCV 2012). Each pixel
    is compared with the left and right border at its height, give or take some rows, and with the
    upper border. For plain pictures such as the Mini world's; photographs need a trained segmenter.
    """
    small = interpolate(pictures, (size, size), mode="bilinear", antialias=True)
    strip, reach = max(2, size // 16), size // 8
    rows = torch.arange(size)
    distance = torch.full((len(pictures), size, size), float("inf"))
    sides = torch.cat([small[..., :strip], small[..., -strip:]], -1)
    for shift in range(-reach, reach + 1):
        at = sides[:, :, (rows + shift).clamp(0, size - 1)]
        apart = (small[..., None] - at[:, :, :, None]).square().sum(1).sqrt()
        distance = torch.minimum(distance, apart.amin(-1))
    smooth = avg_pool2d(distance[:, None], 3, 1, 1)
    masks = (smooth > _threshold(smooth)).float()
    return (interpolate(masks, pictures.shape[-2:], mode="bilinear") > 0.5).float()


def _threshold(values: Tensor) -> Tensor:
    """Otsu's threshold of each map (1979), [n 1 1 1]."""
    thresholds = []
    for row in values.flatten(1):
        cuts = torch.linspace(float(row.min()), float(row.max()), 34)[1:-1]
        low = row[None] <= cuts[:, None]
        share = low.float().mean(1)
        total = row.sum()
        below = (row * low).sum(1)
        mean_low = below / low.sum(1).clamp_min(1)
        mean_high = (total - below) / (~low).sum(1).clamp_min(1)
        thresholds.append(cuts[(share * (1 - share) * (mean_low - mean_high).square()).argmax()])
    return torch.stack(thresholds)[:, None, None, None]
