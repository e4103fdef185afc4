"""CLIP's vision tower as a feature model, with its preprocessing pinned (arXiv:2103.00020)."""

from __future__ import annotations

import copy
import os
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from pcs_core.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
LARGE = "openai/clip-vit-large-patch14"
HUGE = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
HUGE_WIDTH = 1024
"""Channels of ViT-H/14's projected class token, which IP-Adapter's weights for SD 1.5 read."""


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
        images = images.to(next(self.model.parameters()).device)
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

    @torch.no_grad()
    def states(self, images: Tensor, layers: int) -> Tensor:
        """Return what the last ``layers`` blocks read: tokens [n 1+patches patch_width].

        Raises
        ------
        InputError
            The tower has fewer blocks.
        """
        available = len(self.model.vision_model.encoder.layers)
        if layers > available:
            raise InputError(
                f"the image encoder has {available} blocks: the last {layers} cannot train"
            )
        output = self.model(pixel_values=self._pixels(images), output_hidden_states=True)
        features: Tensor = output.hidden_states[-1 - layers]
        return features.float()

    def tail(self, layers: int) -> VisionTail:
        """Return a trainable copy of the last ``layers`` blocks, which reads their ``states``."""
        return VisionTail(self.model, layers)


class VisionTail(nn.Module):
    """The last blocks of a vision tower, trainable, with its frozen norm and projection behind them.

    The bias of the keys is frozen: it shifts all logits of a query alike, and the softmax does not see it.
    """

    scale: Tensor
    shift: Tensor
    projection: Tensor

    def __init__(self, model: Any, layers: int) -> None:
        super().__init__()
        vision = model.vision_model
        available = len(vision.encoder.layers)
        self.blocks = nn.ModuleList(
            copy.deepcopy(block).float().requires_grad_(True)
            for block in vision.encoder.layers[available - layers :]
        )
        for block in self.blocks:
            keys: Any = block.self_attn.k_proj  # type: ignore[union-attr]
            bias = keys.bias.detach()
            del keys.bias
            keys.register_buffer("bias", bias, persistent=False)
        norm = vision.post_layernorm
        self.eps = float(norm.eps)
        frozen = {
            "scale": norm.weight,
            "shift": norm.bias,
            "projection": model.visual_projection.weight,
        }
        for name, value in frozen.items():  # not stored: they are the tower's
            self.register_buffer(name, value.detach().float().clone(), persistent=False)

    def forward(self, states: Tensor) -> Tensor:
        """Return the projected class token [n width] of states [n 1+patches patch_width]."""
        for block in self.blocks:
            states = block(states, attention_mask=None)
        first = F.layer_norm(states[:, 0], self.scale.shape, self.scale, self.shift, self.eps)
        return F.linear(first, self.projection)


def _open(id: str, variable: str, default: str) -> ClipVision:
    """Open the tower that the environment's ``variable`` names (a folder or hub id), or ``default``.

    Raises
    ------
    InputError
        It cannot be had here.
    """
    from transformers import CLIPVisionModelWithProjection

    name = os.environ.get(variable, default)
    try:
        model = CLIPVisionModelWithProjection.from_pretrained(name, use_safetensors=True)
    except (OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"feature model {id!r}: {name!r} cannot be opened ({reason}): set {variable} to "
            f"a folder with a CLIP vision tower in safetensors ({default})"
        ) from error
    return ClipVision(model)


@cache
def clip_image() -> ClipVision:
    """Open the tower that ``PCS_CLIP_IMAGE`` names, or ViT-L/14's of OpenAI.

    Raises
    ------
    InputError
        It cannot be had here.
    """
    return _open("clip.image", "PCS_CLIP_IMAGE", LARGE)


@cache
def clip_image_huge() -> ClipVision:
    """Open the tower that ``PCS_CLIP_IMAGE_H14`` names, or OpenCLIP's ViT-H/14.

    Raises
    ------
    InputError
        It cannot be had here, or its projected class token has not 1024 channels.
    """
    tower = _open("clip.image.h14", "PCS_CLIP_IMAGE_H14", HUGE)
    if tower.width != HUGE_WIDTH:
        raise InputError(
            f"feature model 'clip.image.h14': the tower's class token has {tower.width} channels, ViT-H/14's "
            f"{HUGE_WIDTH}: set PCS_CLIP_IMAGE_H14 to {HUGE}, or encoders.image.model to another model"
        )
    return tower


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
