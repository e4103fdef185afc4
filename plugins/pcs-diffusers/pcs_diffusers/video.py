"""Text-to-video folders (ModelScope and ZeroScope layout) as a backbone.

The layout is that of Stable Diffusion with a ``UNet3DConditionModel`` (ModelScope, arXiv:2308.06571):
convolutions and attention over time between those over space. Latents are [b c t h w]; the VAE is one
of pictures and sees each frame by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from pcs_core.data import Site
from pcs_core.errors import CapabilityError
from pcs_diffusers.folders import damaged, find_folder, folder_digest, read_scheduler, whole
from pcs_diffusers.roles import with_roles
from pcs_diffusers.sites import block_scales, layer_site, layer_sites
from pcs_diffusers.stable_diffusion import PARTS, StableDiffusion
from pcs_diffusers.tokenizers import read_tokenizer

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import Conditioning

FRAMES = 16
"""Frames of a clip: what ModelScope was trained on, and MotionDirector tunes on."""
DENOISER = "UNet3DConditionModel"


class TextToVideo(StableDiffusion):
    """A frozen text-to-video network with named sites, those over time of kind "temporal"."""

    family: ClassVar[str] = "video"

    def __init__(self, *, frames: int = FRAMES, **parts: Any) -> None:
        super().__init__(**parts)
        channels, height, width = self.latent_shape
        self.latent_shape = (channels, frames, height, width)

    @cached_property
    def sites(self) -> Sequence[Site]:
        """Every site, named on the bare network."""
        return with_roles(
            (
                *video_sites(self.unet),
                *layer_sites(self.text_encoder, "text"),
                *layer_sites(self.vae, "vae"),
            ),
            temporal_modules(self.unet),
        )

    def control_network(self, channels: int, width: float) -> nn.Module:
        """Refuse: ControlNets of this family's layout are of pictures."""
        raise CapabilityError(f"backbone {self.card.id!r}: no control network for clips")

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

    def denoise(
        self,
        latents: Tensor,
        time: Tensor,
        cond: Conditioning,
        *,
        residuals: tuple[Sequence[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Return the UNet's native output [b c t h w]."""
        if residuals is not None:
            raise CapabilityError(f"backbone {self.card.id!r}: control branches do not fit clips")
        return super().denoise(latents, time, cond)

    def checkpointing(self, function: Callable[..., Any] | None) -> None:
        """Refuse to recompute: this class of diffusers cannot."""
        if function is not None:
            raise CapabilityError(f"backbone {self.card.id!r} cannot recompute its activations")


def video_sites(unet: nn.Module) -> Iterator[Site]:
    """Yield attention, layer and resnet sites of a UNet3DConditionModel with their grid scale."""
    scales = block_scales(unet)
    over_time = temporal_modules(unet)
    for name, module in unet.named_modules():
        scale = next((s for prefix, s in scales.items() if name.startswith(prefix)), 1)
        if hasattr(module, "to_q") and hasattr(module, "is_cross_attention"):
            kind = "cross" if module.is_cross_attention else "self"
            yield Site(
                name=name,
                part="denoiser",
                kind="temporal" if name.startswith(over_time) else kind,
                scale=scale,
                width=module.query_dim,
                context=module.cross_attention_dim,
                heads=module.heads,
            )
        elif type(module).__name__ == "ResnetBlock2D":
            yield Site(name, "denoiser", "resnet", scale, width=module.out_channels)
        else:
            yield from layer_site(name, module, "denoiser", scale)


def temporal_modules(unet: nn.Module) -> tuple[str, ...]:
    """Return the prefixes of the modules that act along a clip."""
    return tuple(
        f"{name}."
        for name, m in unet.named_modules()
        if type(m).__name__ == "TransformerTemporalModel"
    )


def load(
    location: str | Path,
    *,
    id: str = "",
    device: str = "cpu",
    dtype: torch.dtype | None = None,
) -> TextToVideo | None:
    """Open a folder or hub id in text-to-video layout, or return None if it is another layout.

    Raises
    ------
    InputError
        The folder has the layout, but a part is missing or damaged; or the hub cannot be reached.
    """
    folder = find_folder(location, DENOISER, PARTS)
    if folder is None:
        return None
    from diffusers import AutoencoderKL, UNet3DConditionModel
    from transformers import CLIPTextModel

    kind = dtype or torch.float32
    try:
        return TextToVideo(
            unet=whole(UNet3DConditionModel, folder / "unet", torch_dtype=kind),
            vae=whole(AutoencoderKL, folder / "vae", torch_dtype=kind),
            text_encoder=whole(CLIPTextModel, folder / "text_encoder", dtype=kind),
            tokenizer=read_tokenizer(folder / "tokenizer"),
            scheduler_config=read_scheduler(folder),
            id=id or str(location),
            location=str(location),
            device=device,
            digest=folder_digest(folder),
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise damaged(location, error) from error
