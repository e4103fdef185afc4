"""What a single file of SD 1.x or SDXL leaves out: configurations and tokenizers, as the releases have them.

So such a file opens without a network. The numbers are those of the ``config.json`` files of
stable-diffusion-v1-5 and stable-diffusion-xl-base-1.0; fine-tunes share them.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pcs_diffusers.clip_words import clip_tokenizer

CLIP_L = "cond_stage_model.transformer.text_model.embeddings.position_embedding.weight"
OPEN_CLIP_G = "conditioner.embedders.1.model.positional_embedding"
V_PREDICTION, ZERO_SNR = "v_pred", "ztsnr"
"""Tensors by whose names fine-tunes of SDXL say that they predict v, and that the last step is noise alone."""
FIRST = "model.diffusion_model.input_blocks.0.0.weight"
"""The denoiser's first layer; its width says whether it is one for inpainting."""
SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
"""The noise of Stable Diffusion 1, 2 and XL."""
UNET = {
    "_class_name": "UNet2DConditionModel",
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 2,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "act_fn": "silu",
    "norm_num_groups": 32,
    "norm_eps": 1e-05,
    "downsample_padding": 1,
    "mid_block_scale_factor": 1,
}
VAE = {
    "_class_name": "AutoencoderKL",
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "act_fn": "silu",
    "norm_num_groups": 32,
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
TEXT = {
    "architectures": ["CLIPTextModel"],
    "model_type": "clip_text_model",
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
    "projection_dim": 768,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-05,
    "bos_token_id": 0,
    # the releases say 2: transformers takes the largest id for the end then, which is the end token
    "eos_token_id": 2,
    "pad_token_id": 1,
}
SD1: Mapping[str, Mapping[str, Any]] = {
    "unet": UNET
    | {
        "sample_size": 64,
        "block_out_channels": [320, 640, 1280, 1280],
        "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
        "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
    },
    "vae": VAE | {"sample_size": 512, "scaling_factor": 0.18215},
    "text_encoder": TEXT,
    "scheduler": SCHEDULE
    | {"_class_name": "PNDMScheduler", "skip_prk_steps": True, "prediction_type": "epsilon"},
}
SDXL: Mapping[str, Mapping[str, Any]] = {
    "unet": UNET
    | {
        "sample_size": 128,
        "block_out_channels": [320, 640, 1280],
        "down_block_types": ["DownBlock2D", *["CrossAttnDownBlock2D"] * 2],
        "up_block_types": [*["CrossAttnUpBlock2D"] * 2, "UpBlock2D"],
        "cross_attention_dim": 2048,
        "attention_head_dim": [5, 10, 20],
        "transformer_layers_per_block": [1, 2, 10],
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
    "vae": VAE | {"sample_size": 1024, "scaling_factor": 0.13025, "force_upcast": True},
    "text_encoder": TEXT,
    "text_encoder_2": TEXT
    | {
        "architectures": ["CLIPTextModelWithProjection"],
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 20,
        "projection_dim": 1280,
        "hidden_act": "gelu",
    },
    "scheduler": SCHEDULE
    | {
        "_class_name": "EulerDiscreteScheduler",
        "timestep_spacing": "leading",
        "interpolation_type": "linear",
        "use_karras_sigmas": False,
        "prediction_type": "epsilon",
    },
}
INDICES: Mapping[str, Mapping[str, Any]] = {
    "StableDiffusionPipeline": {
        "scheduler": ["diffusers", "PNDMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
    },
    "StableDiffusionXLPipeline": {
        "force_zeros_for_empty_prompt": True,
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
    },
}


def release_of(names: Collection[str], channels: int) -> str:
    """Return the pipeline of the release that a file is a fine-tune of, "" where its layout is not known here.

    ``names`` of its tensors; ``channels`` that its denoiser's first layer reads: 4, in inpainting 9.
    """
    if channels != 4:
        return ""
    if CLIP_L in names:
        return "StableDiffusionPipeline"
    return "StableDiffusionXLPipeline" if OPEN_CLIP_G in names else ""


@contextmanager
def release_folder(pipeline: str, names: Collection[str]) -> Iterator[Path]:
    """Give a folder, for the duration, with all that a file of ``pipeline`` leaves out.

    Raises
    ------
    InputError
        CLIP's vocabulary is not installed.
    """
    parts = SDXL if pipeline == "StableDiffusionXLPipeline" else SD1
    with TemporaryDirectory(prefix="pcs-release-") as place:
        folder = Path(place)
        index = {"_class_name": pipeline, **INDICES[pipeline]}
        index |= {
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        }
        (folder / "model_index.json").write_text(json.dumps(index))
        for part, config in parts.items():
            if part == "scheduler":
                config = dict(config) | what_a_file_predicts(names)
            (folder / part).mkdir()
            name = "scheduler_config.json" if part == "scheduler" else "config.json"
            (folder / part / name).write_text(json.dumps(config))
        clip_tokenizer().save_pretrained(folder / "tokenizer")
        if "text_encoder_2" in parts:
            clip_tokenizer(pad="!").save_pretrained(folder / "tokenizer_2")
        yield folder


def what_a_file_predicts(names: Collection[str]) -> dict[str, Any]:
    """Return what differs from the release's schedule by the marks in a file."""
    changes: dict[str, Any] = {}
    if V_PREDICTION in names:
        changes["prediction_type"] = "v_prediction"
    if ZERO_SNR in names:
        changes["rescale_betas_zero_snr"] = True
    return changes
