"""The networks of ``pcs-mini``, as diffusers, transformers and open_clip classes of small size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

LATENT_CHANNELS = 4
LATENT_SIZE = 16
TEXT_WIDTH = 160


def build_vae() -> AutoencoderKL:
    """64 px pictures to 16x16x4 latents and back."""
    return AutoencoderKL(
        block_out_channels=(16, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=LATENT_CHANNELS,
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=64,
        mid_block_add_attention=False,
        scaling_factor=1.0,
    )


def build_text_encoder(tokenizer: CLIPTokenizer, layers: int = 3) -> CLIPTextModel:
    """A CLIP text model of width 160; it pools at the tokenizer's end-of-text token."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=layers,
            num_attention_heads=4,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            hidden_act="gelu",
        )
    )


def build_unet(channels: tuple[int, int, int] = (64, 128, 256)) -> UNet2DConditionModel:
    """SD's block layout on 16x16x4 latents: cross attention at 16, 8 and 4."""
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=channels,
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def build_scheduler() -> DDIMScheduler:
    """SD's schedule, noisier at its end (these latents carry more per element), on velocity."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.02,
        prediction_type="v_prediction",
        set_alpha_to_one=False,
        steps_offset=1,
        clip_sample=False,
        timestep_spacing="trailing",
    )


CLIP_CONFIG: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "head_width": 64},
    "text_cfg": {
        "context_length": 32,
        "vocab_size": 0,
        "width": 128,
        "heads": 4,
        "layers": 2,
        "pool_type": "argmax",
    },
}
"""open_clip's model configuration; ``vocab_size`` is filled in from the tokenizer."""


def build_clip(config: Mapping[str, Any]) -> CLIP:
    """The scorer's two towers: a small ResNet on 64 px pictures and a small text transformer."""
    vision = {**config["vision_cfg"], "layers": tuple(config["vision_cfg"]["layers"])}
    return CLIP(
        config["embed_dim"],
        CLIPVisionCfg(**vision),
        CLIPTextCfg(**config["text_cfg"]),
    )
