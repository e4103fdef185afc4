"""A pool of pictures rendered in advance, as arrays, for training stages to draw from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pcs_mini.world.compose import SIZE, draw


@dataclass(frozen=True)
class Pool:
    """`n` samples of the world."""

    images: NDArray[np.uint8]
    """``[n, size, size, 3]``."""
    masks: NDArray[np.uint8]
    """``[n, size, size]``, 255 = subject."""
    captions: list[str]
    labels: list[tuple[str, str, str]]
    """Noun, style and place."""


def render_pool(n: int, seed: int, size: int = SIZE) -> Pool:
    """Draw `n` training samples; the same seed gives the same pool."""
    rng = np.random.default_rng(seed)
    images = np.empty((n, size, size, 3), np.uint8)
    masks = np.empty((n, size, size), np.uint8)
    captions, labels = [], []
    for i in range(n):
        sample = draw(rng, size=size)
        images[i], masks[i] = sample.image, sample.mask
        captions.append(sample.caption)
        labels.append((sample.noun, sample.style, sample.place))
    return Pool(images, masks, captions, labels)
