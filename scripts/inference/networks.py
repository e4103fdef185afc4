"""Networks of the size of Stable Diffusion 1.5 and SDXL with random weights: nothing is downloaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from pcs_core.backbone import Backbone

LENGTH = 77
SD15_UNET: dict[str, Any] = {
    "sample_size": 64,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
SDXL_UNET: dict[str, Any] = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}
CLIP_L = {"hidden_size": 768, "layers": 12, "heads": 12, "act": "quick_gelu"}
CLIP_G = {"hidden_size": 1280, "layers": 32, "heads": 20, "act": "gelu", "projection_dim": 1280}


def sd15(*, device: str = "cpu", dtype: torch.dtype = torch.float32, side: int = 64) -> Backbone:
    """Return SD 1.5 with random weights; ``side`` is that of the latents."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    from pcs_diffusers.stable_diffusion import StableDiffusion
    from pcs_diffusers.tiny import build_tokenizer, scheduler_config

    tokenizer = build_tokenizer(LENGTH)
    return StableDiffusion(
        unet=random_weights(
            UNet2DConditionModel, device, dtype, **SD15_UNET | {"sample_size": side}
        ),
        vae=random_weights(AutoencoderKL, device, dtype, **VAE, scaling_factor=0.18215),
        text_encoder=text_encoder(tokenizer, device, dtype, **CLIP_L),
        tokenizer=tokenizer,
        scheduler_config=scheduler_config("epsilon"),
        id="random-sd15",
        device=device,
        digest=f"random SD 1.5, latents of {side}",
    )


def sdxl(*, device: str = "cpu", dtype: torch.dtype = torch.float32, side: int = 128) -> Backbone:
    """Return SDXL with random weights; its autoencoder too is in ``dtype``."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    from pcs_diffusers.stable_diffusion_xl import StableDiffusionXL
    from pcs_diffusers.tiny import build_tokenizer, scheduler_config

    tokenizers = [build_tokenizer(LENGTH), build_tokenizer(LENGTH, pad="!")]
    return StableDiffusionXL(
        unet=random_weights(
            UNet2DConditionModel, device, dtype, **SDXL_UNET | {"sample_size": side}
        ),
        vae=random_weights(AutoencoderKL, device, dtype, **VAE, scaling_factor=0.13025),
        text_encoder=text_encoder(tokenizers[0], device, dtype, **CLIP_L),
        text_encoder_2=text_encoder(tokenizers[1], device, dtype, **CLIP_G),
        tokenizer=tokenizers[0],
        tokenizer_2=tokenizers[1],
        scheduler_config=scheduler_config("epsilon"),
        id="random-sdxl",
        device=device,
        digest=f"random SDXL, latents of {side}",
    )


def text_encoder(
    tokenizer: Any,
    device: str,
    dtype: torch.dtype,
    *,
    layers: int,
    heads: int,
    act: str,
    **more: Any,
) -> nn.Module:
    """Return a random CLIP text encoder; with ``projection_dim`` it has a pooled output."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        intermediate_size=4 * more["hidden_size"],
        num_hidden_layers=layers,
        num_attention_heads=heads,
        hidden_act=act,
        max_position_embeddings=LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **more,
    )
    kind = CLIPTextModelWithProjection if "projection_dim" in more else CLIPTextModel
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind(config).to(device, dtype)


@torch.no_grad()
def random_weights(cls: Any, device: str, dtype: torch.dtype, **config: Any) -> nn.Module:
    """Return a network of ``config`` with random weights, made in place: the classes' own start is slow."""
    with torch.device("meta"):
        made: nn.Module = cls(**config)
    made = made.to(dtype).to_empty(device=device)
    rng = torch.Generator(device).manual_seed(0)
    for name, parameter in made.named_parameters():
        if parameter.dim() > 1:
            fan = parameter[0].numel()
            parameter.normal_(0.0, fan**-0.5, generator=rng)
        else:
            parameter.fill_(1.0 if name.endswith("weight") else 0.0)
    return made.eval()
