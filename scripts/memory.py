"""Count the memory that fitting a LoRA takes on real models, without their weights: docs/memory.json.

    python scripts/memory.py

The networks are built from their published configurations on the device "meta", which computes shapes and
nothing else: numbers of parameters are exact, and what one training step keeps for its backward pass is summed
as autograd saves it. Not counted: the reserve of the allocator, workspaces and the context of CUDA (about one
gigabyte together), and what drawing a preview takes (less than a step).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, SD3Transformer2DModel, UNet2DConditionModel
from diffusers.models.modeling_utils import ModelMixin
from pages.tree import DOCS
from peft import LoraConfig
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
)

OUT = DOCS / "memory.json"
LORA = LoraConfig(r=4, target_modules=["to_q", "to_k", "to_v", "to_out.0"])
"""What the recipe `lora-dreambooth` trains."""
CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "projection_dim": 768}
CLIP_G = {"hidden_size": 1280, "intermediate_size": 5120, "projection_dim": 1280}
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}


class Fused(torch.autograd.Function):
    """Attention as fused kernels keep it: inputs, result and one number per query, never the map."""

    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Return a result of the right shape [b h n d]."""
        out = torch.empty_like(q)
        ctx.save_for_backward(q, k, v, out, q.new_empty(q.shape[:-1]))
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """Never called: only shapes are of interest."""
        raise NotImplementedError


def fused(q: Any, k: Any, v: Any, *_: Any, **__: Any) -> torch.Tensor:
    """Stand in for torch's fused attention."""
    result: torch.Tensor = Fused.apply(q, k, v)
    return result


def clip(kind: type, width: dict[str, int], layers: int, act: str) -> Any:
    """Return a CLIP text encoder."""
    config = CLIPTextConfig(
        **width,
        num_hidden_layers=layers,
        num_attention_heads=width["hidden_size"] // 64,
        hidden_act=act,
    )
    return kind(config)


def sd15() -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return parts and a denoiser's inputs at 512 x 512, batch 1."""
    unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    text = clip(CLIPTextModel, CLIP_L, 12, "quick_gelu")
    inputs = {"sample": torch.empty(1, 4, 64, 64), "encoder_hidden_states": torch.empty(1, 77, 768)}
    return {"denoiser": unet, "text": text, "vae": AutoencoderKL(latent_channels=4, **VAE)}, inputs


def sdxl() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return parts and a denoiser's inputs at 1024 x 1024, batch 1."""
    unet = UNet2DConditionModel(
        sample_size=128,
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=[1, 2, 10],
        attention_head_dim=[5, 10, 20],
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )
    texts = {
        "text": clip(CLIPTextModel, CLIP_L, 12, "quick_gelu"),
        "text 2": clip(CLIPTextModelWithProjection, CLIP_G, 32, "gelu"),
    }
    inputs = {
        "sample": torch.empty(1, 4, 128, 128),
        "encoder_hidden_states": torch.empty(1, 77, 2048),
        "added_cond_kwargs": {"text_embeds": torch.empty(1, 1280), "time_ids": torch.empty(1, 6)},
    }
    return {"denoiser": unet, **texts, "vae": AutoencoderKL(latent_channels=4, **VAE)}, inputs


def sd35() -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return parts of SD 3.5 medium and a denoiser's inputs at 1024 x 1024, batch 1."""
    transformer = SD3Transformer2DModel(
        sample_size=128,
        in_channels=16,
        out_channels=16,
        num_layers=24,
        num_attention_heads=24,
        attention_head_dim=64,
        joint_attention_dim=4096,
        caption_projection_dim=1536,
        pooled_projection_dim=2048,
        pos_embed_max_size=384,
        dual_attention_layers=tuple(range(13)),
        qk_norm="rms_norm",
    )
    t5 = T5Config(
        d_model=4096,
        d_ff=10240,
        d_kv=64,
        num_layers=24,
        num_heads=64,
        vocab_size=32128,
        feed_forward_proj="gated-gelu",
    )
    texts = {
        "text": clip(CLIPTextModelWithProjection, CLIP_L, 12, "quick_gelu"),
        "text 2": clip(CLIPTextModelWithProjection, CLIP_G, 32, "gelu"),
        "text 3": T5EncoderModel(t5),
    }
    vae = AutoencoderKL(latent_channels=16, use_quant_conv=False, use_post_quant_conv=False, **VAE)
    inputs = {
        "hidden_states": torch.empty(1, 16, 128, 128),
        "encoder_hidden_states": torch.empty(1, 333, 4096),
        "pooled_projections": torch.empty(1, 2048),
    }
    return {"denoiser": transformer, **texts, "vae": vae}, inputs


MODELS: dict[str, tuple[str, int, Callable[[], Any]]] = {
    "stable-diffusion-v1-5": ("SD 1.5", 512, sd15),
    "stable-diffusion-xl-base-1.0": ("SDXL", 1024, sdxl),
    "stable-diffusion-3.5-medium": ("SD 3.5 medium", 1024, sd35),
}


def kept_numbers(denoiser: ModelMixin, inputs: dict[str, Any]) -> int:
    """Return how many numbers one forward keeps for its backward, weights left out."""
    weights = {p.untyped_storage()._cdata for p in denoiser.parameters()}
    storages: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storages.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        denoiser(**inputs, timestep=torch.empty(1))
    return sum(
        tensor.untyped_storage().nbytes() // tensor.element_size()
        for key, tensor in storages.items()
        if key not in weights
    )


def count(build: Callable[[], Any]) -> dict[str, Any]:
    """Return the numbers of parameters by part, of those that train, and what a step keeps."""
    with torch.device("meta"):
        parts, inputs = build()
        numbers = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
        denoiser = parts["denoiser"].requires_grad_(False)
        denoiser.add_adapter(LORA)
        trained = sum(p.numel() for p in denoiser.parameters() if p.requires_grad)
        return {"parameters": numbers, "trained": trained, "kept": kept_numbers(denoiser, inputs)}


def main() -> None:
    """Count and write."""
    torch.nn.functional.scaled_dot_product_attention = fused
    F.scaled_dot_product_attention = fused
    known = {
        folder: {"name": name, "side": side, **count(build)}
        for folder, (name, side, build) in MODELS.items()
    }
    OUT.write_text(json.dumps(known, indent=1) + "\n", "utf-8")
    print(json.dumps(known, indent=1))


if __name__ == "__main__":
    main()
