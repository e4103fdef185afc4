"""Custom Diffusion's files: diffusers draws with its attention processors what we draw with differences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import CustomDiffusionAttnProcessor2_0
from safetensors.torch import save_file

from pcs_core.errors import InputError
from pcs_diffusers.tiny import tiny
from pcs_formats.importing import import_file
from pcs_testing.inspect import opened as opened_once

PROMPTS = ("a photo of a dog", "a red toy")
CLOSE: Any = {"rtol": 1e-4, "atol": 1e-4}


def trained(unet: Any) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return diffusers' processors with moved weights, and their tensors as ``save_attn_procs`` named them."""
    torch.manual_seed(1)
    processors, tensors = dict(unet.attn_processors), dict[str, torch.Tensor]()
    for name in processors:
        if ".attn2." not in name:
            continue
        layer = unet.get_submodule(name.removesuffix(".processor"))
        width, context = layer.to_k.weight.shape
        made = CustomDiffusionAttnProcessor2_0(
            train_kv=True, train_q_out=True, hidden_size=width, cross_attention_dim=context
        )
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.copy_(0.2 * torch.randn(parameter.shape))
        processors[name] = made
        tensors |= {f"{name}.{key}": value for key, value in made.state_dict().items()}
    return processors, tensors


def test_it_draws_as_diffusers_processors(evaluate_artifact: Any, tmp_path: Path) -> None:
    backbone: Any = tiny()
    before = dict(backbone.denoiser.attn_processors)
    processors, tensors = trained(backbone.denoiser)
    save_file(tensors, tmp_path / "pytorch_custom_diffusion_weights.safetensors")
    save_file({"<new1>": torch.randn(1, 32)}, tmp_path / "<new1>.safetensors")
    artifact = import_file(tmp_path / "pytorch_custom_diffusion_weights.safetensors", backbone)
    with opened_once(None, backbone, PROMPTS) as (_, cond, _):
        text = cond.text
    noise = torch.randn(
        len(PROMPTS), *backbone.latent_shape, generator=torch.Generator().manual_seed(7)
    )
    latents = backbone.sampler("ddim", 1).start(noise)
    backbone.denoiser.set_attn_processor(processors)
    with torch.no_grad():
        theirs = backbone.denoiser(latents, 400, encoder_hidden_states=text).sample
    backbone.denoiser.set_attn_processor(before)
    torch.testing.assert_close(
        evaluate_artifact(artifact, backbone, prompts=PROMPTS), theirs, **CLOSE
    )
    assert (theirs - evaluate_artifact(None, backbone, prompts=PROMPTS)).abs().max() > 1e-2
    assert [c.token for c in artifact.concepts] == ["<new1>"]


def test_a_projection_of_no_layer_is_named(tmp_path: Path) -> None:
    backbone: Any = tiny()
    _, tensors = trained(backbone.denoiser)
    key = next(k for k in tensors if k.endswith("to_k_custom_diffusion.weight"))
    tensors["down_blocks.9.attn2.processor.to_k_custom_diffusion.weight"] = tensors.pop(key)
    save_file(tensors, tmp_path / "custom.safetensors")
    with pytest.raises(InputError, match=r"down_blocks\.9.*is of no cross-attention"):
        import_file(tmp_path / "custom.safetensors", backbone)
