"""Plain sampling of the backbone, without the rest of PCS: used to watch training and to evaluate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from pcs_core.errors import InputError


@dataclass
class Parts:
    """The five parts of a diffusers text-to-image folder."""

    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel
    vae: AutoencoderKL
    unet: UNet2DConditionModel
    scheduler: DDIMScheduler


def load_parts(folder: Path, device: str = "cpu") -> Parts:
    """Open the folder in fp32 on `device`, ready for inference. Raises as `check_model`."""
    check_model(folder)
    return Parts(
        CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer"),
        CLIPTextModel.from_pretrained(folder, subfolder="text_encoder").float().to(device).eval(),
        AutoencoderKL.from_pretrained(folder, subfolder="vae").float().to(device).eval(),
        UNet2DConditionModel.from_pretrained(folder, subfolder="unet").float().to(device).eval(),
        DDIMScheduler.from_pretrained(folder, subfolder="scheduler"),
    )


def check_model(folder: Path) -> None:
    """Refuse a folder that holds no model: loaders would take its name for one of a hub.

    Raises
    ------
    InputError
        It has no ``unet``.
    """
    if not (folder / "unet").is_dir():
        raise InputError(
            f"{folder} holds no model: `pcs mini train diffusion` writes OUT/model, and "
            "`pcs mini assemble` the folder that is shipped"
        )


def tokenise(tokenizer: CLIPTokenizer, texts: Sequence[str]) -> Tensor:
    """Padded token ids ``[n, length]``."""
    return tokenizer(
        list(texts), padding="max_length", truncation=True, return_tensors="pt"
    ).input_ids


@torch.no_grad()
def pictures(
    parts: Parts,
    prompts: Sequence[str],
    *,
    steps: int = 20,
    guidance: float = 3.0,
    seed: int = 0,
    batch: int = 32,
) -> Tensor:
    """One picture per prompt, ``[n, 3, h, w]`` in 0..1 on the CPU.

    Each picture has its own seed (`seed` + its index), so a prompt draws the same alone or not.
    """
    drawn = []
    device = parts.unet.device
    size = parts.unet.config.sample_size
    parts.scheduler.set_timesteps(steps)
    for at in range(0, len(prompts), batch):
        texts = list(prompts[at : at + batch])
        n = len(texts)
        ids = tokenise(parts.tokenizer, [*texts, *[""] * n]).to(device)
        text = parts.text_encoder(ids).last_hidden_state
        latents = torch.stack(
            [
                torch.randn(
                    parts.unet.config.in_channels,
                    size,
                    size,
                    generator=torch.Generator().manual_seed(seed + at + i),
                )
                for i in range(n)
            ]
        ).to(device)
        for t in parts.scheduler.timesteps:
            both = parts.unet(
                torch.cat([latents, latents]), t, encoder_hidden_states=text, return_dict=False
            )[0]
            given, empty = both.chunk(2)
            latents = parts.scheduler.step(
                empty + guidance * (given - empty), t, latents, return_dict=False
            )[0]
        images = parts.vae.decode(latents / parts.vae.config.scaling_factor).sample
        drawn.append((images.float().cpu() / 2 + 0.5).clamp(0, 1))
    return torch.cat(drawn)
