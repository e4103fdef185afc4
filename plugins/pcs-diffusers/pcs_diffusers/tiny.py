"""Config-built random networks on the real classes: small enough for tests and defining checks.

Weights are drawn under a fixed seed, so ``tiny`` is the same network everywhere on one torch version.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from pcs_diffusers.masked_tokens import TokenTransformer
from pcs_diffusers.released import SCHEDULE
from pcs_diffusers.stable_diffusion import StableDiffusion
from pcs_diffusers.stable_diffusion_3 import StableDiffusion3
from pcs_diffusers.stable_diffusion_xl import StableDiffusionXL
from pcs_diffusers.video import TextToVideo

WORDS = (
    "a an the of in on with at photo picture drawing painting cat dog car toy style red blue green "
    "beach snow forest table grass rendering close up small far away big nice clean dark bright"
).split()


def tiny(**options: object) -> StableDiffusion:
    """Return the epsilon-predicting tiny network (16 px latents, 32 px pictures)."""
    return build(prediction="epsilon", id="tiny", **options)  # type: ignore[arg-type]


def write_tiny(folder: Path) -> Path:
    """Write :func:`tiny` as a folder in diffusers' layout; return ``folder``."""
    from diffusers import DDIMScheduler

    backbone = tiny()
    backbone.denoiser.save_pretrained(folder / "unet")
    backbone.vae.save_pretrained(folder / "vae")
    backbone.text_encoder.save_pretrained(folder / "text_encoder")
    backbone.tokenizer.inner.save_pretrained(folder / "tokenizer")
    DDIMScheduler.from_config(backbone.scheduler_config).save_pretrained(folder / "scheduler")
    return folder


def tiny_v(**options: object) -> StableDiffusion:
    """Return the v-predicting tiny network."""
    return build(prediction="v_prediction", id="tiny-v", **options)  # type: ignore[arg-type]


def build(
    *,
    prediction: str = "epsilon",
    id: str = "tiny",
    seed: int = 0,
    size: int = 16,
    device: str = "cpu",
) -> StableDiffusion:
    """Build a network of about a million parameters. ``size`` is the side of the latents."""
    from diffusers import AutoencoderTiny, UNet2DConditionModel

    tokenizer = build_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=size,
            in_channels=4,
            out_channels=4,
            block_out_channels=(32, 64),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=32,
            attention_head_dim=4,
            norm_num_groups=8,
        )
        vae = build_vae(side=2 * size)
        text = build_text_encoder(tokenizer)
        light = AutoencoderTiny(
            encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            num_encoder_blocks=(1, 1),
            num_decoder_blocks=(1, 1),
        )
    backbone = StableDiffusion(
        unet=unet,
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        scheduler_config=scheduler_config(prediction),
        id=id,
        device=device,
    )
    backbone.light = light
    return backbone


def build_text_encoder(tokenizer: Any, *, projected: bool = False, width: int = 32) -> Any:
    """Return a random CLIP text encoder of two layers; ``projected`` has a pooled output."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **({"projection_dim": width} if projected else {}),
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)


def scheduler_config(prediction: str) -> dict[str, Any]:
    """Return the noise schedule of Stable Diffusion."""
    return {"_class_name": "DDIMScheduler", **SCHEDULE, "prediction_type": prediction}


def build_tokenizer(
    length: int = 24, pad: str = "<|endoftext|>", words: Iterable[str] = WORDS
) -> object:
    """Return a CLIP tokenizer over letters, digits and ``words``; unknown words are split.

    ``pad`` is the entry that fills a prompt up: "!" in the second encoder of SDXL and SD 3.
    """
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    vocabulary = {t: i for i, t in enumerate([*letters, *(x + "</w>" for x in letters)])}
    merges: list[tuple[str, str]] = []
    for word in dict.fromkeys(words):
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:
            # left to right; a few words stay split, where another's merge comes first ("at" in "cat")
            merged = pieces[0] + pieces[1]
            if merged not in vocabulary:
                vocabulary[merged] = len(vocabulary)
                merges.append((pieces[0], pieces[1]))
            pieces = [merged, *pieces[2:]]
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[special] = len(vocabulary)
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=length, pad_token=pad)


def build_t5_tokenizer() -> Any:
    """Return a T5 tokenizer over letters, digits and :data:`WORDS`; unknown words are split."""
    from string import ascii_letters, digits, punctuation

    from transformers import T5Tokenizer

    pieces = ["\u2581" + word for word in WORDS] + ["\u2581", *ascii_letters, *digits, *punctuation]
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    scores = [(piece, -float(len(piece) < 3) - 1.0) for piece in dict.fromkeys(pieces)]
    return T5Tokenizer(vocab=special + scores, extra_ids=0)


def tiny_video(*, seed: int = 0, device: str = "cpu") -> TextToVideo:
    """Return a tiny text-to-video network: 4 frames of 8 px latents, 16 px pictures."""
    from diffusers import UNet3DConditionModel

    tokenizer = build_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet3DConditionModel(
            sample_size=8,
            block_out_channels=(32, 64),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
            up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
            cross_attention_dim=32,
            attention_head_dim=4,
            norm_num_groups=8,
        )
        vae = build_vae(side=16)
        text = build_text_encoder(tokenizer)
    return TextToVideo(
        frames=4,
        unet=unet,
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        scheduler_config=scheduler_config("epsilon"),
        id="tiny-video",
        device=device,
    )


def tiny_tokens(*, seed: int = 0, device: str = "cpu") -> TokenTransformer:
    """Return a tiny masked-token network: 8 x 8 tokens of 32 entries, 16 px pictures."""
    from diffusers import UVit2DModel, VQModel

    tokenizer = build_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = UVit2DModel(
            hidden_size=32,
            cond_embed_dim=32,
            micro_cond_encode_dim=2,
            micro_cond_embed_dim=10,
            encoder_hidden_size=32,
            vocab_size=33,
            codebook_size=32,
            in_channels=32,
            block_out_channels=32,
            num_res_blocks=1,
            block_num_heads=2,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            sample_size=8,
        )
        vqvae = VQModel(
            block_out_channels=(16, 32),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            num_vq_embeddings=32,
            norm_num_groups=8,
            layers_per_block=1,
            mid_block_add_attention=False,
            lookup_from_codebook=True,
        )
        text = build_text_encoder(tokenizer, projected=True)
    return TokenTransformer(
        transformer=transformer,
        vqvae=vqvae,
        text_encoder=text,
        tokenizer=tokenizer,
        scheduler_config={"mask_token_id": 32, "masking_schedule": "cosine"},
        id="tiny-tokens",
        device=device,
    )


def tiny_sdxl(*, seed: int = 0, device: str = "cpu") -> StableDiffusionXL:
    """Return a tiny SDXL network: 16 px latents, 32 px pictures, text of 32 + 48 channels."""
    from diffusers import UNet2DConditionModel

    tokenizers = [build_tokenizer(), build_tokenizer(pad="!")]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=16,
            block_out_channels=(32, 64),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2),
            cross_attention_dim=80,
            attention_head_dim=(4, 8),
            norm_num_groups=8,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 48,
        )
        vae = build_vae(channels=4, scaling_factor=0.13025)
        texts = [
            build_text_encoder(tokenizers[0]),
            build_text_encoder(tokenizers[1], projected=True, width=48),
        ]
    return StableDiffusionXL(
        unet=unet,
        vae=vae,
        text_encoder=texts[0],
        text_encoder_2=texts[1],
        tokenizer=tokenizers[0],
        tokenizer_2=tokenizers[1],
        scheduler_config={
            **scheduler_config("epsilon"),
            "_class_name": "EulerDiscreteScheduler",
            "timestep_spacing": "leading",
        },
        id="tiny-sdxl",
        device=device,
    )


# long: the configuration of a network, number by number
def tiny_sd3(
    *, seed: int = 0, device: str = "cpu", with_t5: bool = True, t5_length: int = 16
) -> StableDiffusion3:
    """Return a tiny SD 3 network: 16 px latents of 16 channels, 32 px pictures.

    As SD 3.5, its first block has self-attention beside the joint one, and heads are normalised. Its T5
    reads ``t5_length`` tokens, each of about one letter.
    """
    from diffusers import SD3Transformer2DModel
    from transformers import T5Config, T5EncoderModel

    tokenizers = [build_tokenizer(), build_tokenizer(pad="!")]
    t5_tokenizer = build_t5_tokenizer() if with_t5 else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = SD3Transformer2DModel(
            sample_size=16,
            patch_size=2,
            in_channels=16,
            out_channels=16,
            num_layers=3,
            attention_head_dim=16,
            num_attention_heads=4,
            joint_attention_dim=96,
            caption_projection_dim=64,
            pooled_projection_dim=80,
            pos_embed_max_size=16,
            dual_attention_layers=(0,),
            qk_norm="rms_norm",
        )
        vae = build_vae(channels=16, scaling_factor=1.5305, shift_factor=0.0609)
        texts = [
            build_text_encoder(tokenizers[0], projected=True),
            build_text_encoder(tokenizers[1], projected=True, width=48),
        ]
        t5 = None
        if t5_tokenizer is not None:
            config = T5Config(
                vocab_size=len(t5_tokenizer),
                d_model=96,
                d_kv=16,
                d_ff=64,
                num_layers=2,
                num_heads=4,
            )
            t5 = T5EncoderModel(config)
    return StableDiffusion3(
        transformer=transformer,
        vae=vae,
        text_encoder=texts[0],
        text_encoder_2=texts[1],
        text_encoder_3=t5,
        tokenizer=tokenizers[0],
        tokenizer_2=tokenizers[1],
        tokenizer_3=t5_tokenizer,
        t5_length=t5_length,
        scheduler_config={
            "_class_name": "FlowMatchEulerDiscreteScheduler",
            "num_train_timesteps": 1000,
            "shift": 3.0,
        },
        id="tiny-sd3",
        device=device,
    )


def build_vae(*, channels: int = 4, side: int = 32, **options: Any) -> Any:
    """Return a random autoencoder of ``side`` px pictures with latents half as large."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(16, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=channels,
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=side,
        **options,
    )
