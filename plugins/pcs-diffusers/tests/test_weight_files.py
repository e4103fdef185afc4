"""What a backbone is: the weights that are loaded, in one file, in shards or as a variant."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pcs_core.data import Personalization, Recipe
from pcs_core.errors import ArtifactError, InputError
from pcs_diffusers.tiny import tiny
from pcs_engine import open_backbone
from pcs_engine.opening import resolve_backbone

UNET = "unet/diffusion_pytorch_model.safetensors"
FILES = (UNET, "vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors")


def variant(file: Path, name: str) -> Path:
    return file.with_name(f"{file.stem}.{name}.safetensors")


def same_weights(a: Any, b: Any) -> bool:
    return all(
        torch.equal(tensor, b.parts[part].state_dict()[name])
        for part, module in a.parts.items()
        for name, tensor in module.state_dict().items()
    )


def test_files_that_are_not_loaded_are_no_part_of_it(whole: Path, folder: Path) -> None:
    for file in FILES:
        for name in ("non_ema", "fp16"):
            shutil.copy(folder / file, variant(folder / file, name))
    assert open_backbone(folder).card.hash == open_backbone(whole).card.hash


def test_what_was_made_when_they_counted_still_draws(folder: Path) -> None:
    """Before, the hash went over every weight file of a folder."""
    shutil.copy(folder / UNET, variant(folder / UNET, "fp16"))
    opened: Any = open_backbone(folder)
    former = opened.former_hash()
    assert former != opened.card.hash
    old = Personalization(Recipe(id="old"), replace(opened.card, hash=former), (), {})
    assert resolve_backbone(opened, old) is opened
    other = replace(old, backbone=replace(opened.card, hash="0" * 64))
    with pytest.raises(ArtifactError, match="has other weights"):
        resolve_backbone(opened, other)


@pytest.mark.parametrize("parts", [FILES, FILES[:1], FILES[2:]], ids=["all", "unet", "text"])
def test_a_folder_of_a_variant_opens(whole: Path, folder: Path, parts: tuple[str, ...]) -> None:
    for file in parts:
        (folder / file).rename(variant(folder / file, "fp16"))
    opened: Any = open_backbone(folder)
    assert same_weights(opened, open_backbone(whole))
    assert opened.dtype == torch.float32


def test_shards_open_and_count_whole(whole: Path, folder: Path) -> None:
    shutil.rmtree(folder / "unet")
    shutil.rmtree(folder / "text_encoder")
    backbone = tiny()
    backbone.denoiser.save_pretrained(folder / "unet", max_shard_size="20KB")
    backbone.text_encoder.save_pretrained(folder / "text_encoder", max_shard_size="20KB")
    assert len(list((folder / "unet").glob("*.safetensors"))) > 1
    opened = open_backbone(folder)
    assert same_weights(opened, open_backbone(whole))
    shutil.copy(folder / "vae" / Path(FILES[1]).name, folder / "unet" / "aside.safetensors")
    assert open_backbone(folder).card.hash == opened.card.hash
    index = json.loads((folder / f"{UNET}.index.json").read_text())
    (folder / "unet" / max(index["weight_map"].values())).unlink()
    with pytest.raises(InputError, match="which is missing"):
        open_backbone(folder)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("diffusion_pytorch_model.non_ema.safetensors", "only the variant non_ema: rename"),
        ("diffusion_pytorch_model.bin", "only pickled weights"),
        ("weights.safetensors", "it holds config.json, weights.safetensors"),
    ],
)
def test_the_true_cause_is_named(folder: Path, name: str, words: str) -> None:
    (folder / UNET).rename(folder / "unet" / name)
    with pytest.raises(InputError, match=words):
        open_backbone(folder)
