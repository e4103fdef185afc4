"""LoRA files of FLUX by the names of kohya and ComfyUI are the product of their factors, as for diffusers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from pcs_diffusers.tiny_flux import tiny_flux
from pcs_formats.importing import import_file, inspect_file

CLOSE: Any = {"rtol": 1e-4, "atol": 1e-4}
TWO = "transformer_blocks.1"
ONE = "single_transformer_blocks.1"
LAYERS = {
    "double_blocks.1.img_attn.qkv": [f"{TWO}.attn.to_{p}" for p in "qkv"],
    "double_blocks.1.txt_attn.qkv": [f"{TWO}.attn.add_{p}_proj" for p in "qkv"],
    "double_blocks.1.img_attn.proj": [f"{TWO}.attn.to_out.0"],
    "double_blocks.1.txt_mlp.2": [f"{TWO}.ff_context.net.2"],
    "double_blocks.1.img_mod.lin": [f"{TWO}.norm1.linear"],
    "single_blocks.1.linear1": [*(f"{ONE}.attn.to_{p}" for p in "qkv"), f"{ONE}.proj_mlp"],
    "single_blocks.1.linear2": [f"{ONE}.proj_out"],
    "single_blocks.1.modulation.lin": [f"{ONE}.norm.linear"],
    "img_in": ["x_embedder"],
    "guidance_in.in_layer": ["time_text_embed.guidance_embedder.linear_1"],
}
"""Layers in the release's naming -> those whose rows they hold."""


def updates(backbone: Any, prefix: str, names: list[str]) -> dict[str, torch.Tensor]:
    """Return low-rank updates of ``names`` as a file holds them."""
    tensors: dict[str, torch.Tensor] = {}
    for seed, name in enumerate(names):
        layers = [backbone.denoiser.get_submodule(path) for path in LAYERS[name]]
        rng = torch.Generator().manual_seed(seed)
        rows, columns = sum(x.weight.shape[0] for x in layers), layers[0].weight.shape[1]
        key = prefix + (name.replace(".", "_") if prefix == "lora_unet_" else name)
        tensors[f"{key}.lora_down.weight"] = 0.2 * torch.randn(2, columns, generator=rng)
        tensors[f"{key}.lora_up.weight"] = 0.2 * torch.randn(rows, 2, generator=rng)
        tensors[f"{key}.alpha"] = torch.tensor(1.0)
    return tensors


@pytest.mark.parametrize("prefix", ["lora_unet_", "diffusion_model."])
def test_it_is_the_product_of_the_factors(
    prefix: str, evaluate_artifact: Any, tmp_path: Path
) -> None:
    backbone: Any = tiny_flux()
    tensors, file = updates(backbone, prefix, list(LAYERS)), tmp_path / "flux.safetensors"
    save_file(tensors, file)
    plain = evaluate_artifact(None, backbone)
    ours = evaluate_artifact(import_file(file, backbone), backbone)
    with torch.no_grad():
        for name, paths in LAYERS.items():
            key = prefix + (name.replace(".", "_") if prefix == "lora_unet_" else name)
            delta = tensors[f"{key}.lora_up.weight"] @ tensors[f"{key}.lora_down.weight"] / 2
            layers = [backbone.denoiser.get_submodule(path) for path in paths]
            for layer, part in zip(
                layers, delta.split([x.weight.shape[0] for x in layers]), strict=True
            ):
                layer.weight += part
    torch.testing.assert_close(ours, evaluate_artifact(None, backbone), **CLOSE)
    assert (ours - plain).abs().max() > 1e-2
    report = inspect_file(file, tiny_flux())
    assert report["loaders"][0]["matched"] == len(tensors)


def test_diffusers_loads_the_same_file(
    evaluate_artifact: Any, pipeline_of: Any, evaluate_bare: Any, tmp_path: Path
) -> None:
    backbone: Any = tiny_flux()
    names = [name for name in LAYERS if name.startswith("double") and "mod" not in name]
    file = tmp_path / "kohya.safetensors"
    save_file(updates(backbone, "lora_unet_", names), file)
    ours = evaluate_artifact(import_file(file, backbone), backbone)
    pipeline_of(backbone).load_lora_weights(tmp_path, weight_name=file.name)
    torch.testing.assert_close(evaluate_bare(backbone), ours, **CLOSE)


def test_a_text_encoder_s_layers_are_counted_as_these_tools_do(tmp_path: Path) -> None:
    backbone: Any = tiny_flux()
    tensors = {
        "lora_te1_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight": torch.ones(1, 32),
        "lora_te1_text_model_encoder_layers_0_self_attn_q_proj.lora_up.weight": torch.ones(32, 1),
        "lora_te3_encoder_block_0_layer_0_SelfAttention_q.lora_down.weight": torch.ones(1, 96),
        "lora_te3_encoder_block_0_layer_0_SelfAttention_q.lora_up.weight": torch.ones(64, 1),
    }
    save_file(tensors, tmp_path / "te.safetensors")
    stored = import_file(tmp_path / "te.safetensors", backbone).tensors
    assert sum("text_encoder_2.encoder.block.0" in name for name in stored) == 2
    assert sum("text_encoder.encoder.layers.0" in name for name in stored) == 2
