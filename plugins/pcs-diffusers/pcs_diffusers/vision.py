"""CLIP's vision tower as a feature model, with its preprocessing pinned (arXiv:2103.00020)."""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from pcs_core.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
DEFAULT = "openai/clip-vit-large-patch14"


class ClipVision:
    """A frozen vision tower. ``width`` of pooled features, ``patch_width`` of patch features."""

    def __init__(self, model: Any) -> None:
        self.model = model.eval().requires_grad_(False)
        self.size = int(model.config.image_size)
        self.width = int(model.config.projection_dim)
        self.patch_width = int(model.config.hidden_size)

    def _pixels(self, images: Tensor) -> Tensor:
        scale = self.size / min(images.shape[-2:])
        shape = [max(self.size, round(n * scale)) for n in images.shape[-2:]]
        if list(images.shape[-2:]) != shape:
            images = F.interpolate(
                images, shape, mode="bicubic", antialias=True, align_corners=False
            ).clamp(0, 1)
        top, left = ((n - self.size) // 2 for n in shape)
        images = images[..., top : top + self.size, left : left + self.size]
        mean, std = (torch.tensor(t).view(3, 1, 1).to(images) for t in (MEAN, STD))
        return (images - mean) / std

    @torch.no_grad()
    def pooled(self, images: Tensor) -> Tensor:
        """Return the projected class token [n width] of images [n 3 h w] in [0, 1]."""
        features: Tensor = self.model(pixel_values=self._pixels(images)).image_embeds
        return features.float()

    @torch.no_grad()
    def patches(self, images: Tensor) -> Tensor:
        """Return the last but one layer's tokens [n 1+patches patch_width], as IP-Adapter Plus reads."""
        output = self.model(pixel_values=self._pixels(images), output_hidden_states=True)
        features: Tensor = output.hidden_states[-2]
        return features.float()


@cache
def clip_image() -> ClipVision:
    """Open the tower that ``PCS_CLIP_IMAGE`` names (a folder or hub id), or ViT-L/14's own.

    Raises
    ------
    InputError
        It cannot be had here.
    """
    from transformers import CLIPVisionModelWithProjection

    name = os.environ.get("PCS_CLIP_IMAGE", DEFAULT)
    try:
        model = CLIPVisionModelWithProjection.from_pretrained(name, use_safetensors=True)
    except (OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"feature model 'clip.image': {name!r} cannot be opened ({reason}): set PCS_CLIP_IMAGE to "
            "a folder with a CLIP vision tower in safetensors"
        ) from error
    return ClipVision(model)


def _tiny(seed: int) -> ClipVision:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            projection_dim=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=32,
            patch_size=8,
        )
        return ClipVision(CLIPVisionModelWithProjection(config))


@cache
def tiny_image() -> ClipVision:
    """Return a random tower, the same everywhere on one torch version."""
    return _tiny(0)


@cache
def tiny_face() -> ClipVision:
    """Return another random tower, in a recogniser's place."""
    return _tiny(1)
