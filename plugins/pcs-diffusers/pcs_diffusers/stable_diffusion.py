"""Stable-Diffusion-family folders (SD 1.x and 2.x layout) as a backbone.

A folder, or a hub id where a hub can be reached, with ``text_encoder``, ``tokenizer``, ``vae``,
``unet`` and ``scheduler``. Safetensors only: pickled weights and remote code are refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pcs_core.data import Site
from pcs_diffusers.folders import part_config
from pcs_diffusers.layout import FolderLayout
from pcs_diffusers.places import unet_places
from pcs_diffusers.recognise import MOTION
from pcs_diffusers.sites import unet_sites
from pcs_diffusers.unet import UNetBackbone

if TYPE_CHECKING:
    from torch import nn


class StableDiffusion(UNetBackbone):
    """A frozen Stable Diffusion network with named sites."""

    family: ClassVar[str] = "sd"
    layout: ClassVar[FolderLayout] = FolderLayout(
        {
            "unet": "diffusers.UNet2DConditionModel",
            "vae": "diffusers.AutoencoderKL",
            "text_encoder": "transformers.CLIPTextModel",
            "tokenizer": "transformers.CLIPTokenizer",
        }
    )
    takes_control: ClassVar[bool] = True

    def denoiser_sites(self) -> Iterator[Site]:
        """Yield the sites of the UNet."""
        yield from unet_sites(self.denoiser)
        yield from unet_places(self.denoiser)

    def control_network(self, channels: int, width: float) -> nn.Module:
        """Return a trainable ControlNet for this UNet."""
        from pcs_diffusers.control import ControlNetwork

        return ControlNetwork(self.denoiser, self.vae, channels, width)

    @classmethod
    def knows(cls, folder: Path) -> bool:
        """Return whether ``folder`` holds such a UNet, or everything but one that can be read."""
        unet = folder / cls.layout.denoiser
        if (folder / MOTION).is_dir():
            return False  # it draws clips: AnimateDiff
        if "_class_name" in part_config(unet):
            return super().knows(folder) and not reads_size(folder)
        if unet.is_dir():
            return not reads_size(folder)
        others = (folder / part for part in cls.layout.needed if part != cls.layout.denoiser)
        return all(p.is_dir() for p in others) and not (folder / "transformer").is_dir()


def reads_size(folder: Path) -> bool:
    """Return whether the UNet in ``folder`` is told the picture's size: it is SDXL's."""
    return part_config(folder / "unet").get("addition_embed_type") == "text_time"
