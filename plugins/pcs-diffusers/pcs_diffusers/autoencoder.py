"""diffusers' AutoencoderKL between pictures in [0, 1] and the latents that a denoiser knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor


def moments(vae: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and std [n c h w] of the scaled latents of images [n 3 h w] in [0, 1]."""
    weight = next(vae.parameters())
    posterior = vae.encode(images.to(weight.device, weight.dtype) * 2 - 1).latent_dist
    scale = vae.config.scaling_factor
    return (posterior.mean - shift(vae)) * scale, posterior.std * scale


def decode(vae: Any, latents: Tensor) -> Tensor:
    """Return images [n 3 h w] in [0, 1] of scaled latents [n c h w], in the caller's grad mode."""
    latents = latents.to(next(vae.parameters()).dtype)
    images = vae.decode(latents / vae.config.scaling_factor + shift(vae)).sample
    decoded: Tensor = (images / 2 + 0.5).clamp(0, 1).float()
    return decoded


def shift(vae: Any) -> float:
    """Return what is taken from latents before they are scaled: not zero in SD 3 alone."""
    return float(getattr(vae.config, "shift_factor", None) or 0.0)


def enlargement(vae: Any) -> int:
    """Return how many times larger than their latents pictures are."""
    return int(2 ** (len(vae.config.block_out_channels) - 1))


def weights_type(vae_config: Any, dtype: torch.dtype) -> torch.dtype:
    """Return the dtype to load an autoencoder in: SDXL's own gives NaN in fp16, and says so."""
    forced = bool(vae_config.get("force_upcast", False)) and dtype == torch.float16
    return torch.float32 if forced else dtype
