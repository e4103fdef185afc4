"""Text-to-video folders (ModelScope and ZeroScope layout) as a backbone.

The layout is that of Stable Diffusion with a ``UNet3DConditionModel`` (ModelScope, arXiv:2308.06571):
convolutions and attention over time between those over space. Latents are [b c t h w]; the VAE is one
of pictures and sees each frame by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from pcs_core.data import Site
from pcs_diffusers.layout import FolderLayout
from pcs_diffusers.places import unet_places
from pcs_diffusers.sites import video_sites
from pcs_diffusers.stable_diffusion import StableDiffusion
from pcs_diffusers.unet import UNetBackbone

if TYPE_CHECKING:
    from torch import Tensor

FRAMES = 16
"""Frames of a clip: what ModelScope was trained on, and MotionDirector tunes on."""


class TextToVideo(UNetBackbone):
    """A frozen text-to-video network with named sites, those over time of kind "temporal"."""

    family: ClassVar[str] = "video"
    layout: ClassVar[FolderLayout] = FolderLayout(
        {**StableDiffusion.layout.parts, "unet": "diffusers.UNet3DConditionModel"}
    )
    recomputes: ClassVar[bool] = False

    def __init__(self, *, frames: int = FRAMES, **parts: Any) -> None:
        self.frames = frames
        super().__init__(**parts)

    def make_latent_shape(self) -> tuple[int, ...]:
        """Return the shape of a clip's latents [c t h w]."""
        channels, height, width = super().make_latent_shape()
        return (channels, self.frames, height, width)

    def denoiser_sites(self) -> Iterator[Site]:
        """Yield the sites of the UNet."""
        yield from video_sites(self.denoiser)
        yield from unet_places(self.denoiser)

    def moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and std [n c t h w] of clips [n 3 t h w] in [0, 1]; a picture has one frame."""
        clips = images[:, :, None] if images.dim() == 4 else images
        n, frames = clips.shape[0], clips.shape[2]
        mean, std = super().moments(clips.transpose(1, 2).flatten(0, 1))
        return (
            mean.unflatten(0, (n, frames)).transpose(1, 2),
            std.unflatten(0, (n, frames)).transpose(1, 2),
        )

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Return clips [n 3 t h w] in [0, 1], clip by clip."""
        clips = [super(TextToVideo, self).decode(one.transpose(0, 1)) for one in latents]
        return torch.stack([frames.transpose(0, 1) for frames in clips])
