"""One LoRA in every way of writing its keys gives one network, the one with the product in its weights."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from pcs_acceleration.lora_file import LoraFile
from pcs_acceleration.lora_files import read_residuals
from pcs_core import open_backbone
from pcs_core.data import WeightEdit
from pcs_core.errors import InputError
from pcs_testing import build_fusion, evaluate, make_recipe, make_subject

RANK = 2
LAYERS = (
    ("unet", "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"),
    ("unet", "up_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0"),
    ("unet", "down_blocks.0.downsamplers.0.conv"),
    ("unet", "mid_block.resnets.0.conv1"),
    ("unet", "up_blocks.0.resnets.0.conv_shortcut"),  # a kernel of 1 x 1
    ("text", "encoder.layers.0.self_attn.q_proj"),
)


def factors(backbone: Any) -> dict[tuple[str, str], tuple[torch.Tensor, torch.Tensor]]:
    rng, by_layer = torch.Generator().manual_seed(0), {}
    for part, layer in LAYERS:
        root = backbone.denoiser if part == "unet" else backbone.text_encoder
        shape = root.get_submodule(layer).weight.shape
        down = torch.randn(RANK, *shape[1:], generator=rng) * 0.3
        up = torch.randn(shape[0], RANK, *[1] * (len(shape) - 2), generator=rng) * 0.3
        by_layer[part, layer] = (down, up)
    return by_layer


def kohya(part: str, layer: str) -> tuple[str, str, str]:
    word = "lora_unet_" if part == "unet" else "lora_te_text_model_"
    base = word + layer.replace(".", "_")
    return f"{base}.lora_down.weight", f"{base}.lora_up.weight", f"{base}.alpha"


def peft(part: str, layer: str) -> tuple[str, str, str]:
    base = ("unet." if part == "unet" else "text_encoder.text_model.") + layer
    return f"{base}.lora_A.weight", f"{base}.lora_B.weight", f"{base}.alpha"


def diffusers(part: str, layer: str) -> tuple[str, str, str]:
    base = ("unet." if part == "unet" else "text_encoder.text_model.") + layer
    return f"{base}.lora.down.weight", f"{base}.lora.up.weight", f"{base}.alpha"


@pytest.fixture(scope="module")
def merged() -> torch.Tensor:
    """What the network says with the product added to its weights."""
    backbone: Any = open_backbone("tiny")
    with torch.no_grad():
        for (part, layer), (down, up) in factors(backbone).items():
            root = backbone.denoiser if part == "unet" else backbone.text_encoder
            added = (up.flatten(1) @ down.flatten(1)) * (1.0 / RANK)
            root.get_submodule(layer).weight.add_(
                added.view(root.get_submodule(layer).weight.shape)
            )
    return evaluate(backbone)


@pytest.mark.parametrize("keys", [kohya, peft, diffusers])
def test_every_way_of_writing_it(
    keys: Callable[[str, str], tuple[str, str, str]],
    backbone: Any,
    merged: torch.Tensor,
    tmp_path: Path,
) -> None:
    tensors = {}
    for (part, layer), (down, up) in factors(backbone).items():
        names = keys(part, layer)
        tensors |= dict(zip(names, (down, up, torch.tensor(1.0)), strict=True))
    save_file(tensors, tmp_path / "few.safetensors")
    technique = LoraFile(file=str(tmp_path / "few.safetensors"))
    fusion = build_fusion(make_recipe([technique]), [make_subject()], backbone)
    edits = fusion.of(WeightEdit)
    assert len(edits) == len(LAYERS)
    assert not any(edit.state_dict() for edit in edits), "an artifact would hold a copy of the file"
    said = evaluate(backbone, fusion)
    torch.testing.assert_close(said, merged, rtol=1e-4, atol=1e-4)
    assert (said - evaluate(backbone)).abs().max() > 1e-2


def test_processors_keys_without_alpha(backbone: Any, tmp_path: Path) -> None:
    base = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.processor"
    tensors = {}
    for name, (wide, out) in {"to_k": (32, 32), "to_out": (32, 32)}.items():
        tensors[f"{base}.{name}_lora.down.weight"] = torch.ones(4, wide)
        tensors[f"{base}.{name}_lora.up.weight"] = torch.ones(out, 4)
    save_file(tensors, tmp_path / "old.safetensors")
    technique = LoraFile(file=str(tmp_path / "old.safetensors"), strength=0.5)
    fusion = build_fusion(make_recipe([technique]), [make_subject()], backbone)
    assert {e.name.rpartition("attn2.")[2] for e in fusion.of(WeightEdit)} == {"to_k", "to_out.0"}
    assert [float(e.scale) for e in fusion.of(WeightEdit)] == [0.5, 0.5]  # type: ignore[attr-defined]


def test_a_subjects_picture_changes_with_it_and_still_with_the_subject(
    draw: Any, backbone: Any, tmp_path: Path
) -> None:
    tensors = {}
    for (part, layer), (down, up) in factors(backbone).items():
        tensors |= dict(zip(kohya(part, layer)[:2], (down, up), strict=True))
    save_file(tensors, tmp_path / "few.safetensors")
    file = str(tmp_path / "few.safetensors")
    plain, with_it = draw(steps=2), draw(LoraFile(file=file), steps=2)
    assert (plain - with_it).abs().max() > 1e-3
    assert torch.equal(plain, draw(LoraFile(file=file, strength=0.0), steps=2))
    other = draw(LoraFile(file=file), steps=2, learned=0.9)
    assert (other - with_it).abs().max() > 1e-3


def test_what_is_not_for_this_network_is_refused(backbone: Any, tmp_path: Path) -> None:
    def use(file: str) -> None:
        build_fusion(make_recipe([LoraFile(file=file)]), [make_subject()], backbone)

    wrong = {"unet.down_blocks.7.conv.lora_A.weight": torch.ones(2, 3)}
    save_file(wrong, tmp_path / "wrong.safetensors")
    with pytest.raises(
        InputError, match="'denoiser/down_blocks_7_conv' and 0 more are residuals of no"
    ):
        use(str(tmp_path / "wrong.safetensors"))
    layer = LAYERS[0][1]
    wide = {f"unet.{layer}.lora_A.weight": torch.ones(2, 768)}
    wide[f"unet.{layer}.lora_B.weight"] = torch.ones(32, 2)
    save_file(wide, tmp_path / "wide.safetensors")
    with pytest.raises(InputError, match="is the file made for it"):
        use(str(tmp_path / "wide.safetensors"))
    save_file({"vae.weight": torch.ones(1)}, tmp_path / "none.safetensors")
    with pytest.raises(InputError, match=r"'vae\.weight'"):
        use(str(tmp_path / "none.safetensors"))
    with pytest.raises(InputError, match="no such file"):
        use(str(tmp_path / "gone.safetensors"))
    (tmp_path / "few.bin").write_bytes(b"x")
    with pytest.raises(InputError, match="never pickle"):
        use(str(tmp_path / "few.bin"))


def scales_of(file: Path, backbone: Any) -> dict[str, float]:
    sites = [s for p in ("denoiser", "text") for s in backbone.sites if s.part == p]
    return {r.site.name: r.scale for r in read_residuals(file, sites)}


METADATA = {
    "unet.r": RANK,
    "unet.lora_alpha": 8,
    "unet.alpha_pattern": {r"mid_block\.resnets\.0\.conv1": 3.0},
    "text_encoder.r": RANK,
    "text_encoder.lora_alpha": 6,
    "text_encoder.use_rslora": True,
}


def with_metadata(backbone: Any, file: Path, values: Any) -> Path:
    tensors = {}
    for (part, layer), pair in factors(backbone).items():
        tensors |= dict(zip(peft(part, layer)[:2], pair, strict=True))
    text = values if isinstance(values, str) else json.dumps(values)
    save_file(tensors, file, {"format": "pt", "lora_adapter_metadata": text})
    return file


def test_alpha_of_the_metadata_counts(backbone: Any, tmp_path: Path) -> None:
    scales = scales_of(with_metadata(backbone, tmp_path / "meta.safetensors", METADATA), backbone)
    for part, layer in LAYERS:
        expected = 6 / math.sqrt(RANK) if part == "text" else 8 / RANK
        expected = 3 / RANK if layer == "mid_block.resnets.0.conv1" else expected
        assert scales[layer] == pytest.approx(expected), layer


def test_diffusers_applies_the_same_alpha(backbone: Any, tmp_path: Path) -> None:
    values = {k: v for k, v in METADATA.items() if k.startswith("unet.")}
    values["unet.target_modules"] = [layer for part, layer in LAYERS if part == "unet"]
    tensors = {}
    for (part, layer), pair in factors(backbone).items():
        if part == "unet":
            tensors |= dict(zip(peft(part, layer)[:2], pair, strict=True))
    file = tmp_path / "meta.safetensors"
    save_file(tensors, file, {"format": "pt", "lora_adapter_metadata": json.dumps(values)})
    technique = LoraFile(file=str(file))
    ours = evaluate(backbone, build_fusion(make_recipe([technique]), [make_subject()], backbone))
    other: Any = open_backbone("tiny")
    other.denoiser.load_lora_adapter(tensors, prefix="unet", metadata=values)
    vars(other).pop("sites", None)
    theirs = evaluate(other)
    torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=1e-4)
    assert (ours - evaluate(backbone)).abs().max() > 1e-2


def test_alpha_of_pefts_own_configuration_counts(backbone: Any, tmp_path: Path) -> None:
    layer = LAYERS[0][1]
    down, up = factors(backbone)[LAYERS[0]]
    keys = {f"base_model.model.{layer}.lora_{k}.weight": t for k, t in (("A", down), ("B", up))}
    save_file(keys, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": RANK, "lora_alpha": 16}))
    assert scales_of(tmp_path / "adapter_model.safetensors", backbone) == {layer: 16 / RANK}


def test_which_alpha_was_used_is_said(
    backbone: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = with_metadata(backbone, tmp_path / "meta.safetensors", {"unet.lora_alpha": 8})
    with caplog.at_level("INFO", "pcs"):
        build_fusion(make_recipe([LoraFile(file=str(file))]), [make_subject()], backbone)
    assert f"metadata 'lora_adapter_metadata' is 4 in {len(LAYERS) - 1} layers" in caplog.text
    assert "no alpha is said, so alpha / rank is 1 in 1 layers" in caplog.text


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ("{", "is not valid JSON"),
        ("[1]", "no JSON object"),
        ({"unet.lora_alpha": "big"}, "is no number: 'big'"),
        ({"unet.lora_alpha": 4, "unet.r": 16}, "unet.r is 16 .* tensors have rank 2"),
    ],
)
def test_metadata_that_cannot_be_used_is_refused(
    backbone: Any, tmp_path: Path, values: Any, words: str
) -> None:
    file = with_metadata(backbone, tmp_path / "meta.safetensors", values)
    with pytest.raises(InputError, match=words):
        scales_of(file, backbone)
