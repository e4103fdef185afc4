"""One update by the names of each tool is one artifact; what was exported comes back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pcs_core import export
from pcs_core.errors import InputError
from pcs_diffusers.tiny import tiny, tiny_sd3, tiny_sdxl
from pcs_diffusers.tiny_flux import tiny_flux
from pcs_formats.importing import import_file, inspect_file

CLOSE: Any = {"rtol": 1e-4, "atol": 1e-4}
MAKERS = {"sd": tiny, "sdxl": tiny_sdxl, "sd3": tiny_sd3, "flux": tiny_flux}
PATH = "up_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
ORIGINAL = "output_blocks.0.1.transformer_blocks.0.attn2.to_k"
SPELLED = {
    "kohya": f"lora_unet_{ORIGINAL.replace('.', '_')}",
    "kohya, diffusers' blocks": f"lora_unet_{PATH.replace('.', '_')}",
    "diffusers": f"unet.{PATH}",
    "peft": f"base_model.model.{PATH}",
    "DiffSynth": PATH,
    "ComfyUI": f"diffusion_model.{ORIGINAL}",
    "LyCORIS alone": f"lycoris_{PATH.replace('.', '_')}",
    "ai-toolkit": f"lora_transformer_{PATH.replace('.', '_')}",
}


def factors(
    shape: tuple[int, ...], rank: int = 2, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(rank, shape[1], generator=rng), torch.randn(shape[0], rank, generator=rng)


@pytest.mark.parametrize("tool", SPELLED)
def test_every_tool_s_name_is_of_one_layer(tool: str, tmp_path: Path) -> None:
    backbone: Any = tiny_sdxl()
    down, up = factors(tuple(backbone.denoiser.get_submodule(PATH).weight.shape))
    file = tmp_path / "one.safetensors"
    save_file(
        {f"{SPELLED[tool]}.lora_down.weight": down, f"{SPELLED[tool]}.lora_up.weight": up}, file
    )
    artifact = import_file(file, backbone)
    assert set(artifact.tensors) == {f"lora:denoiser/{PATH}/A", f"lora:denoiser/{PATH}/B"}
    assert torch.equal(artifact.tensors[f"lora:denoiser/{PATH}/B"], up)


@pytest.mark.parametrize("prefix", ["lora_unet_", "diffusion_model."])
def test_joined_projections_of_sd3_are_split(
    prefix: str, evaluate_artifact: Any, tmp_path: Path
) -> None:
    backbone: Any = tiny_sd3()
    block = backbone.denoiser.transformer_blocks[0]
    sides = {
        "x_block.attn.qkv": (block.attn.to_q, block.attn.to_k, block.attn.to_v),
        "context_block.attn.qkv": (
            block.attn.add_q_proj,
            block.attn.add_k_proj,
            block.attn.add_v_proj,
        ),
        "x_block.mlp.fc1": (block.ff.net[0].proj,),
        "context_block.attn.proj": (block.attn.to_add_out,),
    }
    tensors, merged = dict[str, torch.Tensor](), list[tuple[Any, torch.Tensor]]()
    for seed, (name, layers) in enumerate(sides.items()):
        rows = sum(layer.weight.shape[0] for layer in layers)
        down, up = factors((rows, layers[0].weight.shape[1]), seed=seed)
        whole = f"joint_blocks.0.{name}"
        key = prefix + (whole.replace(".", "_") if prefix == "lora_unet_" else whole)
        tensors |= {f"{key}.lora_down.weight": 0.1 * down, f"{key}.lora_up.weight": up}
        tensors[f"{key}.alpha"] = torch.tensor(1.0)
        delta = 0.05 * up @ down
        merged += zip(layers, delta.split([layer.weight.shape[0] for layer in layers]), strict=True)
    save_file(tensors, tmp_path / "sd3.safetensors")
    artifact = import_file(tmp_path / "sd3.safetensors", backbone)
    ours, plain = evaluate_artifact(artifact, backbone), evaluate_artifact(None, backbone)
    with torch.no_grad():
        for layer, delta in merged:
            layer.weight += delta
    torch.testing.assert_close(ours, evaluate_artifact(None, backbone), **CLOSE)
    assert (ours - plain).abs().max() > 1e-2
    (loader,) = inspect_file(tmp_path / "sd3.safetensors", backbone)["loaders"]
    assert loader["matched"] == len(tensors)
    broken = {k: t[:5] if "up" in k else t for k, t in tensors.items()}
    save_file(broken, tmp_path / "few.safetensors")
    with pytest.raises(InputError, match="has 5 rows"):
        import_file(tmp_path / "few.safetensors", backbone)


@pytest.mark.parametrize(
    ("family", "to"),
    [
        ("sd", "diffusers"),
        ("sd", "kohya"),
        ("sdxl", "kohya"),
        ("sd3", "diffusers"),
        ("flux", "diffusers"),
    ],
)
def test_what_was_exported_comes_back(
    family: str, to: str, evaluate_artifact: Any, tmp_path: Path
) -> None:
    backbone: Any = MAKERS[family]()
    paths = [s.name for s in backbone.sites if s.part == "denoiser" and s.kind == "linear"][::5]
    tensors = {}
    for seed, path in enumerate(paths):
        down, up = factors(
            tuple(backbone.denoiser.get_submodule(path).weight.shape), 2 + seed % 2, seed
        )
        tensors |= {f"unet.{path}.lora_A.weight": 0.2 * down, f"unet.{path}.lora_B.weight": up}
        tensors[f"unet.{path}.alpha"] = torch.tensor(1.5)
    save_file(tensors, tmp_path / "a.safetensors")
    first = import_file(tmp_path / "a.safetensors", backbone)
    (name,) = export(first, tmp_path / "b", to=to, backbone=backbone)["files"]
    second = import_file(tmp_path / "b" / name, backbone)
    (name,) = export(second, tmp_path / "c", to=to, backbone=backbone)["files"]
    written = [load_file(tmp_path / place / name) for place in ("b", "c")]
    assert written[0].keys() == written[1].keys()
    assert all(torch.equal(written[0][k], written[1][k]) for k in written[0])
    expected, given = (evaluate_artifact(a, backbone) for a in (first, second))
    torch.testing.assert_close(given, expected, atol=0.0 if to == "kohya" else 1e-5, rtol=0.0)
