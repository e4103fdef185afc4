"""The models as folders that both sides read, and pictures of subjects."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

SIDES = {"tiny": 32, "mini": 128, "small": 256}
"""Side of the pictures in pixels."""
SMALL_UNET: dict[str, Any] = {
    "block_out_channels": (64, 128, 256, 256),
    "cross_attention_dim": 256,
    "attention_head_dim": 8,
    "sample_size": 32,
}


def write_model(name: str, folder: Path) -> None:
    """Write a model as diffusers' folder: the tiny network, Mini, or a small one of SD 1.5's shape.

    The small one has Stable Diffusion's autoencoder at its full size, of random weights.
    """
    if name == "mini":
        import pcs_mini

        shutil.copytree(Path(str(pcs_mini.__file__)).parent / "weights", folder, dirs_exist_ok=True)
        return
    from diffusers import DDPMScheduler, StableDiffusionPipeline

    backbone = small() if name == "small" else tiny()
    pipeline = StableDiffusionPipeline(
        vae=backbone.vae,
        text_encoder=backbone.text_encoder,
        tokenizer=backbone.tokenizer.inner,
        unet=backbone.denoiser,
        scheduler=DDPMScheduler.from_config(backbone.scheduler_config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)


def tiny() -> Any:
    """Return the tiny network."""
    from pcs_core import open_backbone

    return open_backbone("tiny")


def small() -> Any:
    """Return a network of SD 1.5's shape and a few million weights, with an autoencoder of full size."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from inference.networks import LENGTH, VAE, random_weights, text_encoder

    from pcs_diffusers.stable_diffusion import StableDiffusion
    from pcs_diffusers.tiny import build_tokenizer, scheduler_config

    tokenizer = build_tokenizer(LENGTH)
    kind = torch.float32
    words: dict[str, Any] = {"hidden_size": 256, "layers": 4, "heads": 4, "act": "quick_gelu"}
    return StableDiffusion(
        unet=random_weights(UNet2DConditionModel, "cpu", kind, **SMALL_UNET),
        vae=random_weights(AutoencoderKL, "cpu", kind, **VAE, scaling_factor=0.18215),
        text_encoder=text_encoder(tokenizer, "cpu", kind, **words),
        tokenizer=tokenizer,
        scheduler_config=scheduler_config("epsilon"),
        id="random-small",
        device="cpu",
        digest="random small SD 1.5",
    )


def write_pictures(folder: Path, subjects: int, side: int, count: int = 4) -> None:
    """Write ``count`` smooth random pictures of each subject, s0 and on."""
    from pcs_folders.pictures import write_png

    for number in range(subjects):
        place = folder / f"s{number}"
        place.mkdir(parents=True, exist_ok=True)
        rng = torch.Generator().manual_seed(number)
        for i in range(count):
            coarse = torch.rand(1, 3, 4, 4, generator=rng)
            picture = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic")
            write_png(picture[0].clamp(0, 1), place / f"{i}.png")


def forward_gflop(folder: Path) -> float:
    """Return the GFLOP of one forward of the denoiser for one row, attention included."""
    from pcs_acceleration.flops import flops_of
    from pcs_core import open_backbone

    backbone: Any = open_backbone(folder)
    latents = torch.zeros(1, *backbone.latent_shape)
    text = torch.zeros(1, backbone.tokenizer.length, backbone.denoiser.config.cross_attention_dim)
    time = torch.zeros(1, dtype=torch.long)

    def forward() -> object:
        with torch.no_grad():
            return backbone.denoiser(latents, time, encoder_hidden_states=text, return_dict=False)

    return flops_of(forward) / 1e9
