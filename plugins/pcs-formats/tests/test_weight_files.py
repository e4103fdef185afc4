"""Files for other tools: diffusers itself loads them and then says what we say."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from pcs_core import export, fit
from pcs_core.backbone import import_tensors
from pcs_core.catalogue import catalogue
from pcs_core.data import Personalization, Phase
from pcs_core.errors import CapabilityError
from pcs_diffusers.tiny import tiny, tiny_sd3, tiny_sdxl
from pcs_diffusers.tiny_flux import tiny_flux
from pcs_formats.original_names import original_path
from pcs_formats.weight_files import free_name
from pcs_testing import evaluate, make_recipe, make_subject
from pcs_testing.fixtures import build

MAKERS = {"sd": tiny, "sdxl": tiny_sdxl, "sd3": tiny_sd3, "flux": tiny_flux}
LAYERS = "*.to_q|*.to_k|*.to_v|*.to_out.0|*.add_k_proj|*.conv1|*.conv_shortcut|*.conv|*.proj_mlp|*.ff.net.2"


def technique(id: str, **settings: Any) -> Any:
    return catalogue().get("techniques", id).from_settings(settings)


def fitted(backbone: Any, *uses: Any) -> Personalization:
    recipe = make_recipe(uses, Phase("p", 1, lr={"*": 1e-3}))
    artifact = fit(recipe, make_subject(), backbone)[0]
    rng = torch.Generator().manual_seed(0)
    moved = {k: t + 0.1 * torch.randn(t.shape, generator=rng) for k, t in artifact.tensors.items()}
    return replace(artifact, tensors=moved)


@pytest.mark.parametrize(
    ("family", "to"),
    [
        ("sd", "diffusers"),
        ("sd", "kohya"),
        ("sdxl", "diffusers"),
        ("sdxl", "kohya"),
        ("sd3", "diffusers"),
        ("flux", "diffusers"),
    ],
)
def test_diffusers_loads_them(
    family: str, to: str, tmp_path: Path, pipeline_of: Any, evaluate_bare: Any
) -> None:
    backbone = MAKERS[family]()
    lora = technique("weights.lora", rank=2, alpha=3.0, sites=LAYERS, kind="*")
    artifact = fitted(backbone, lora)
    fusion, _ = build(artifact.recipe, [make_subject()], backbone)
    import_tensors(fusion, dict(artifact.tensors))
    plain, ours = evaluate(backbone), evaluate(backbone, fusion)
    assert (ours - plain).abs().max() > 1e-2
    (file,) = export(artifact, tmp_path / "out", to=to, backbone=backbone)["files"]
    loaded = pipeline_of(backbone)
    loaded.load_lora_weights(tmp_path / "out", weight_name=file)
    theirs = evaluate_bare(backbone)
    torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=1e-4)
    loaded.unload_lora_weights()


def test_original_names_are_the_releases_own() -> None:
    names = {
        "down_blocks.1.attentions.0.proj_in": "input_blocks.4.1.proj_in",
        "down_blocks.0.downsamplers.0.conv": "input_blocks.3.0.op",
        "down_blocks.2.resnets.1.conv1": "input_blocks.8.0.in_layers.2",
        "mid_block.attentions.0.transformer_blocks.3.attn2.to_k": (
            "middle_block.1.transformer_blocks.3.attn2.to_k"
        ),
        "mid_block.resnets.1.conv2": "middle_block.2.out_layers.3",
        "up_blocks.0.attentions.2.transformer_blocks.0.attn1.to_q": (
            "output_blocks.2.1.transformer_blocks.0.attn1.to_q"
        ),
        "up_blocks.1.upsamplers.0.conv": "output_blocks.5.2.conv",
        "add_embedding.linear_1": "label_emb.0.0",
    }
    unet: Any = type("Unet", (), {})()
    unet.config = type("Config", (), {"layers_per_block": 2})
    unet.up_blocks = [type("Block", (), {"attentions": ()})] * 2
    assert {name: original_path(name, unet) for name in names} == names


def test_words_have_a_tensor_for_each_encoder(tmp_path: Path) -> None:
    expected = {
        "sd": {"<thing>": 32},
        "sdxl": {"clip_l": 32, "clip_g": 48},
        "sd3": {"clip_l": 32, "clip_g": 48, "t5xxl": 96},
        "flux": {"clip_l": 32, "t5xxl": 96},
    }
    for family, widths in expected.items():
        backbone = MAKERS[family]()
        artifact = fitted(backbone, technique("tokens.learnable", vectors=2))
        facts = export(artifact, tmp_path / family, to="diffusers", backbone=backbone)
        token = make_subject().concept.token
        (name,) = facts["files"]
        assert name == re.sub(r"[<>]", "", token) + ".safetensors"
        tensors = load_file(tmp_path / family / name)
        shapes = {k.replace(token, "<thing>"): tuple(v.shape) for k, v in tensors.items()}
        assert shapes == {k: (2, n) for k, n in widths.items()}
        whole = torch.cat([tensors[k.replace("<thing>", token)] for k in widths], dim=1)
        assert torch.equal(whole, next(iter(artifact.tensors.values())))


def test_what_does_not_fit_is_refused_by_name(tmp_path: Path) -> None:
    backbone = tiny_sdxl()
    artifact = fitted(backbone, technique("weights.kv"))
    for to in ("diffusers", "kohya"):
        with pytest.raises(CapabilityError, match=rf"'weights\.kv' cannot be written for {to}"):
            export(artifact, tmp_path / to, to=to, backbone=backbone)
    backbone = tiny_sd3()
    artifact = fitted(backbone, technique("weights.lora"))
    with pytest.raises(CapabilityError, match="export to diffusers"):
        export(artifact, tmp_path / "three", to="kohya", backbone=backbone)


@pytest.mark.parametrize("to", ["diffusers", "kohya"])
def test_the_files_say_how_they_are_used(to: str, tmp_path: Path) -> None:
    backbone = tiny()
    lora = technique("weights.lora", rank=2)
    artifact = fitted(backbone, technique("tokens.rare", identifier="zwx"), lora)
    facts = export(artifact, tmp_path / "out", to=to, backbone=backbone)
    concept = make_subject().concept
    text = f"zwx {concept.noun}"
    assert facts["words"] == {concept.token: text}
    assert facts["prompt"] == f"a photo of {text}"
    assert facts["base"]["id"] == "tiny"
    assert facts["sampling"] == {"scheduler": "ddim", "steps": 3, "scale": 2.0}
    with safe_open(tmp_path / "out" / facts["files"][0], "pt") as opened:
        described = opened.metadata()
    assert described["modelspec.trigger_phrase"] == text
    assert "ddim, 3 steps, guidance scale 2, strength 1" in described["modelspec.usage_hint"]
    readme = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert f"Write `{text}` where PCS has `{concept.token}`" in readme
    assert "strength 1" in readme


def test_a_learned_word_is_called_as_the_other_tool_calls_it(tmp_path: Path) -> None:
    backbone, token = tiny(), make_subject().concept.token
    artifact = fitted(backbone, technique("tokens.learnable"))
    said = {}
    for to in ("diffusers", "kohya"):
        facts = export(artifact, tmp_path / to, to=to, backbone=backbone)
        said[to] = facts["words"][token]
    assert said == {"diffusers": token, "kohya": re.sub(r"[<>]", "", token)}


def test_names_of_words_never_collide() -> None:
    taken = ["lora.safetensors"]
    for token in ("<lora>", "<Lora>", "<lora_2>", "***", "<<>>"):
        taken.append(free_name(token, taken))
    assert taken[1:] == [
        "lora_2.safetensors",
        "Lora_3.safetensors",
        "lora_2_2.safetensors",
        "word.safetensors",
        "word_2.safetensors",
    ]
    assert len({name.lower() for name in taken}) == len(taken)
