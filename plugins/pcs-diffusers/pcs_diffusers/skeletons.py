"""Skeletons of released networks: their real layout on the real classes, thin, with random weights.

Everything that a recipe's settings can meet is as in the release: names of modules, levels, layers per block,
transformer layers per level, heads per level, widths of text and pooled text, channels and enlargement of the
latents, length of a prompt, the noise schedule. Thin is what nothing refers to: the channels of UNet and
transformer are an eighth of the real ones (so a head's width too), text encoders have two layers, feed-forward
layers are narrow, and the vocabulary is small. Pictures are ``side`` pixels wide.

Sources of the numbers: the ``config.json`` files of stable-diffusion-v1-5, stable-diffusion-xl-base-1.0,
stable-diffusion-3.5-medium, FLUX.1-dev, FLUX.1-schnell, text-to-video-ms-1.7b, amused-256 and
animatediff-motion-adapter-v1-5-2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from pcs_diffusers.animatediff import AnimateDiff
from pcs_diffusers.family import DiffusersBackbone
from pcs_diffusers.flux import Flux, FluxKontext
from pcs_diffusers.masked_tokens import TokenTransformer
from pcs_diffusers.stable_diffusion import StableDiffusion
from pcs_diffusers.stable_diffusion_3 import StableDiffusion3
from pcs_diffusers.stable_diffusion_xl import StableDiffusionXL
from pcs_diffusers.tiny import WORDS, build_t5_tokenizer, build_tokenizer, scheduler_config
from pcs_diffusers.tiny_animatediff import LINEAR
from pcs_diffusers.tiny_flux import SHIFTING, STILL, F
from pcs_diffusers.video import TextToVideo

THIN = 8
"""What the channels of the denoiser are divided by."""
ENLARGEMENT = 8
"""Pixels of a picture per latent, along a side."""
LENGTH = 77
"""Entries of a prompt that CLIP reads."""
SHORT_WORDS = ("sks", "cid", "vid", "man", "person", "woman", "face", "style", "video", "monadikos")
"""Words that are one entry of CLIP's own vocabulary and that recipes lean on."""


def sd15(*, side: int = 128, seed: int = 0) -> StableDiffusion:
    """Return the skeleton of Stable Diffusion 1.5: text of 768 channels, 8 heads on every level."""
    from diffusers import UNet2DConditionModel

    tokenizer = _tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=side // ENLARGEMENT,
            block_out_channels=_thin(320, 640, 1280, 1280),
            layers_per_block=2,
            down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
            cross_attention_dim=768,
            attention_head_dim=8,
            norm_num_groups=8,
        )
        return StableDiffusion(
            unet=unet,
            vae=_vae(side),
            text_encoder=_clip(tokenizer, 768, 12),
            tokenizer=tokenizer,
            scheduler_config=scheduler_config("epsilon"),
            id="skeleton-sd15",
        )


def sdxl(*, side: int = 64, seed: int = 0) -> StableDiffusionXL:
    """Return the skeleton of SDXL: text of 768 + 1280 channels, 5, 10 and 20 heads."""
    from diffusers import UNet2DConditionModel

    tokenizers = [_tokenizer(), _tokenizer(pad="!")]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=side // ENLARGEMENT,
            block_out_channels=_thin(320, 640, 1280),
            layers_per_block=2,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10),
            cross_attention_dim=2048,
            attention_head_dim=(5, 10, 20),
            norm_num_groups=8,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=6 * 256 + 1280,
        )
        return StableDiffusionXL(
            unet=unet,
            vae=_vae(side, scaling_factor=0.13025),
            text_encoder=_clip(tokenizers[0], 768, 12),
            text_encoder_2=_clip(tokenizers[1], 1280, 20, projected=1280),
            tokenizer=tokenizers[0],
            tokenizer_2=tokenizers[1],
            scheduler_config={
                **scheduler_config("epsilon"),
                "_class_name": "EulerDiscreteScheduler",
                "timestep_spacing": "leading",
            },
            id="skeleton-sdxl",
        )


def sd35(*, side: int = 64, seed: int = 0) -> StableDiffusion3:
    """Return the skeleton of SD 3.5 medium: text of 4096 channels, 24 blocks of 24 heads, 13 of them dual."""
    from diffusers import SD3Transformer2DModel
    from transformers import T5Config, T5EncoderModel

    tokenizers, t5_tokenizer = [_tokenizer(), _tokenizer(pad="!")], build_t5_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = SD3Transformer2DModel(
            sample_size=side // ENLARGEMENT,
            patch_size=2,
            in_channels=16,
            out_channels=16,
            num_layers=24,
            attention_head_dim=64 // THIN,
            num_attention_heads=24,
            joint_attention_dim=4096,
            caption_projection_dim=1536 // THIN,
            pooled_projection_dim=2048,
            pos_embed_max_size=side // ENLARGEMENT,
            dual_attention_layers=tuple(range(13)),
            qk_norm="rms_norm",
        )
        t5 = T5Config(
            vocab_size=len(t5_tokenizer), d_model=4096, d_kv=8, d_ff=64, num_layers=2, num_heads=64
        )
        return StableDiffusion3(
            transformer=transformer,
            vae=_vae(side, channels=16, scaling_factor=1.5305, shift_factor=0.0609),
            text_encoder=_clip(tokenizers[0], 768, 12, projected=768),
            text_encoder_2=_clip(tokenizers[1], 1280, 20, projected=1280),
            text_encoder_3=T5EncoderModel(t5),
            tokenizer=tokenizers[0],
            tokenizer_2=tokenizers[1],
            tokenizer_3=t5_tokenizer,
            scheduler_config={
                "_class_name": "FlowMatchEulerDiscreteScheduler",
                "num_train_timesteps": 1000,
                "shift": 3.0,
            },
            id="skeleton-sd35",
        )


def text_to_video(*, side: int = 128, seed: int = 0, frames: int = 4) -> TextToVideo:
    """Return the skeleton of ModelScope's text-to-video: text of 1024 channels, 5, 10, 20 and 20 heads."""
    from diffusers import UNet3DConditionModel

    tokenizer = _tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet3DConditionModel(
            sample_size=side // ENLARGEMENT,
            block_out_channels=_thin(320, 640, 1280, 1280),
            layers_per_block=2,
            down_block_types=("CrossAttnDownBlock3D",) * 3 + ("DownBlock3D",),
            up_block_types=("UpBlock3D",) + ("CrossAttnUpBlock3D",) * 3,
            cross_attention_dim=1024,
            attention_head_dim=64 // THIN,  # this class reads it as the width of a head
            norm_num_groups=8,
        )
        return TextToVideo(
            frames=frames,
            unet=unet,
            vae=_vae(side),
            text_encoder=_clip(tokenizer, 1024, 16),
            tokenizer=tokenizer,
            scheduler_config=scheduler_config("epsilon"),
            id="skeleton-video",
        )


def animatediff(*, side: int = 64, seed: int = 0, frames: int = 4) -> AnimateDiff:
    """Return the skeleton of SD 1.5 with AnimateDiff's motion modules of v2: one in the middle, 32 positions.

    Its clips are 64 pixels wide, half of the other skeletons of SD 1.5: each frame is a picture.
    """
    from diffusers import UNetMotionModel

    tokenizer = _tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNetMotionModel(
            sample_size=side // ENLARGEMENT,
            block_out_channels=_thin(320, 640, 1280, 1280),
            layers_per_block=2,
            down_block_types=("CrossAttnDownBlockMotion",) * 3 + ("DownBlockMotion",),
            up_block_types=("UpBlockMotion",) + ("CrossAttnUpBlockMotion",) * 3,
            cross_attention_dim=768,
            num_attention_heads=8,
            motion_num_attention_heads=8,
            motion_max_seq_length=32,
            use_motion_mid_block=True,
            norm_num_groups=8,
        )
        return AnimateDiff(
            frames=frames,
            unet=unet,
            vae=_vae(side),
            text_encoder=_clip(tokenizer, 768, 12),
            tokenizer=tokenizer,
            scheduler_config=LINEAR,
            id="skeleton-animatediff",
        )


def amused(*, side: int = 64, seed: int = 0) -> TokenTransformer:
    """Return the skeleton of aMUSEd 256: text of 768 channels, 22 layers of 12 heads, tokens of 16 pixels."""
    from diffusers import UVit2DModel, VQModel

    tokenizer, words = _tokenizer(), 64  # of 8192
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = UVit2DModel(
            hidden_size=768 // THIN,
            cond_embed_dim=768,
            micro_cond_encode_dim=256,
            micro_cond_embed_dim=5 * 256,
            encoder_hidden_size=768,
            vocab_size=words + 1,
            codebook_size=words,
            in_channels=768 // THIN,
            block_out_channels=768 // THIN,
            num_res_blocks=3,
            block_num_heads=12,
            num_hidden_layers=22,
            num_attention_heads=12,
            intermediate_size=64,
            sample_size=side // 16,
        )
        vqvae = VQModel(
            block_out_channels=(8, 16, 16, 16, 32),
            down_block_types=("DownEncoderBlock2D",) * 5,
            up_block_types=("UpDecoderBlock2D",) * 5,
            latent_channels=64,
            num_vq_embeddings=words,
            norm_num_groups=8,
            layers_per_block=2,
            mid_block_add_attention=False,
            lookup_from_codebook=True,
        )
        text = _clip(tokenizer, 768, 12, projected=768)
    return TokenTransformer(
        transformer=transformer,
        vqvae=vqvae,
        text_encoder=text,
        tokenizer=tokenizer,
        scheduler_config={"mask_token_id": words, "masking_schedule": "cosine"},
        id="skeleton-amused",
    )


def flux_dev(*, side: int = 64, seed: int = 0) -> Flux:
    """Return the skeleton of FLUX.1 dev: text of 4096 channels, 19 + 38 blocks of 24 heads."""
    return _flux(Flux, SHIFTING, distilled=True, side=side, seed=seed, id="skeleton-flux")


def flux_schnell(*, side: int = 64, seed: int = 0) -> Flux:
    """Return the skeleton of FLUX.1 schnell: that of dev, told no guidance, its schedule never shifts."""
    return _flux(Flux, STILL, distilled=False, side=side, seed=seed, id="skeleton-schnell")


def flux_kontext(*, side: int = 64, seed: int = 0) -> FluxKontext:
    """Return the skeleton of FLUX.1 Kontext: that of dev, of the family that is given references."""
    return _flux(FluxKontext, SHIFTING, distilled=True, side=side, seed=seed, id="skeleton-kontext")


def _flux(
    kind: type[F], schedule: dict[str, Any], *, distilled: bool, side: int, seed: int, id: str
) -> F:
    from diffusers import FluxTransformer2DModel
    from transformers import T5Config, T5EncoderModel

    tokenizer, t5_tokenizer = _tokenizer(), build_t5_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = FluxTransformer2DModel(
            in_channels=64,
            num_layers=19,
            num_single_layers=38,
            attention_head_dim=10,  # of 128: the rotation's axes are even, 16, 56 and 56 of them
            axes_dims_rope=(2, 4, 4),
            num_attention_heads=24,
            joint_attention_dim=4096,
            pooled_projection_dim=768,
            guidance_embeds=distilled,
        )
        t5 = T5Config(
            vocab_size=len(t5_tokenizer), d_model=4096, d_kv=8, d_ff=64, num_layers=2, num_heads=64
        )
        return kind(
            transformer=transformer,
            vae=_vae(side, channels=16, scaling_factor=0.3611, shift_factor=0.1159),
            text_encoder=_clip(tokenizer, 768, 12),
            text_encoder_2=T5EncoderModel(t5),
            tokenizer=tokenizer,
            tokenizer_2=t5_tokenizer,
            scheduler_config=schedule,
            id=id,
        )


SKELETONS: Mapping[str, Callable[..., DiffusersBackbone]] = {
    "sd": sd15,
    "sdxl": sdxl,
    "sd3": sd35,
    "flux": flux_dev,
    "flux-kontext": flux_kontext,
    "video": text_to_video,
    "animatediff": animatediff,
    "tokens": amused,
}
"""Family -> what builds the skeleton of its best known release."""


def vision_tower(*, width: int, projected: int, seed: int = 0) -> Any:
    """Return a CLIP vision tower of two layers: patches of 14 in 224 pixels, as of the released ones."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = CLIPVisionConfig(
            hidden_size=width,
            intermediate_size=64,
            projection_dim=projected,
            num_hidden_layers=2,
            num_attention_heads=16,
            image_size=224,
            patch_size=14,
        )
        return CLIPVisionModelWithProjection(config)


def _thin(*channels: int) -> tuple[int, ...]:
    return tuple(c // THIN for c in channels)


def _tokenizer(pad: str = "<|endoftext|>") -> Any:
    return build_tokenizer(LENGTH, pad, words=(*WORDS, *SHORT_WORDS))


def _clip(tokenizer: Any, width: int, heads: int, *, projected: int = 0) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=heads,
        max_position_embeddings=LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **({"projection_dim": projected} if projected else {}),
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)


def _vae(side: int, *, channels: int = 4, **options: Any) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 16, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=channels,
        layers_per_block=2,
        norm_num_groups=8,
        sample_size=side,
        **options,
    )
