"""A config-built random AnimateDiff network on the real classes, for tests and defining checks."""

from __future__ import annotations

from typing import Any

import torch

from pcs_diffusers.animatediff import AnimateDiff, join
from pcs_diffusers.tiny import build_text_encoder, build_tokenizer, build_vae, scheduler_config

LINEAR = {**scheduler_config("epsilon"), "beta_schedule": "linear", "clip_sample": False}
"""The noise that motion modules were trained with: betas from 0.00085 to 0.012 in equal steps (of Stable
Diffusion's schedule the roots are), as in the authors' inference-v1.yaml, -v2 and -v3."""


def tiny_animatediff(*, seed: int = 0, device: str = "cpu") -> AnimateDiff:
    """Return a tiny AnimateDiff network: 4 frames of 8 px latents, 16 px pictures."""
    tokenizer = build_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = join(*build_parts())
        vae = build_vae(side=16)
        text = build_text_encoder(tokenizer)
    return AnimateDiff(
        frames=4,
        unet=unet,
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        scheduler_config=LINEAR,
        id="tiny-animatediff",
        device=device,
    )


def build_parts(*, middle: bool = True) -> tuple[Any, Any]:
    """Return a random UNet of pictures and motion modules for it, of v1 none in the ``middle``."""
    from diffusers import MotionAdapter, UNet2DConditionModel

    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=4,
        norm_num_groups=8,
    )
    adapter = MotionAdapter(
        block_out_channels=(32, 64),
        motion_layers_per_block=1,
        motion_num_attention_heads=4,
        motion_norm_num_groups=8,
        motion_max_seq_length=32 if middle else 24,
        use_motion_mid_block=middle,
    )
    return unet, adapter
