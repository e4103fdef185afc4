"""Preprocessing, pinned: what each published model is shown of a picture [n 3 h w] in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import center_crop, resize

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def prepare(
    pictures: Tensor, *, shortest: int, crop: int, mean: Sequence[float], std: Sequence[float]
) -> Tensor:
    """Return pictures whose shortest side was resized (bicubic, antialiased), cropped, normalised.

    Resizing works on 8-bit values, as PIL does and as the published numbers were made: on floats
    bicubic overshoots the range, and scores differ in the third place.
    """
    small = resize(eight_bit(pictures), [shortest], InterpolationMode.BICUBIC, antialias=True)
    x = center_crop(small, [crop, crop]).float() / 255
    return (x - x.new_tensor(mean)[:, None, None]) / x.new_tensor(std)[:, None, None]


def eight_bit(pictures: Tensor) -> Tensor:
    """Return pictures in [0, 1] as bytes, rounded."""
    return (pictures.clamp(0, 1) * 255).round().to(torch.uint8)


def resized(picture: Tensor, height: int, width: int, how: str) -> Tensor:
    """Return a byte picture [3 h w] at another size, by PIL: "lanczos", "bicubic" or "bilinear"."""
    from PIL import Image

    image = Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())
    small = image.resize((width, height), Image.Resampling[how.upper()])
    return torch.from_numpy(np.array(small)).permute(2, 0, 1)
