"""Opening a folder in Stable Diffusion layout, and refusing one that is not whole."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pcs_core.errors import InputError, UnknownNameError
from pcs_diffusers.tiny import tiny
from pcs_engine import open_backbone, sample

WEIGHTS = {
    "unet": "unet/diffusion_pytorch_model.safetensors",
    "vae": "vae/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoder/model.safetensors",
}


def refused(folder: Path) -> str:
    with pytest.raises(InputError) as error:
        open_backbone(folder)
    message = str(error.value)
    assert str(folder) in message
    assert "\n" not in message
    return message


def test_a_saved_folder_is_the_same_backbone(whole: Path) -> None:
    opened: Any = open_backbone(whole)
    built = tiny()
    for part, module in built.parts.items():
        saved = opened.parts[part].state_dict()
        assert all(torch.equal(t, saved[n]) for n, t in module.state_dict().items())
    assert opened.card.size == (32, 32)
    assert opened.card.id == str(whole)
    prompt = "a photo of a dog, snow"
    assert torch.equal(sample(None, opened, prompt, steps=2), sample(None, built, prompt, steps=2))
    assert opened.card.hash == open_backbone(whole).card.hash


def test_the_hash_is_of_the_weights(whole: Path, folder: Path) -> None:
    assert open_backbone(folder).card.hash == open_backbone(whole).card.hash
    file = folder / WEIGHTS["unet"]
    tensors = load_file(file)
    tensors["conv_in.bias"] += 1e-3
    save_file(tensors, file, {"format": "pt"})
    assert open_backbone(folder).card.hash != open_backbone(whole).card.hash


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_a_missing_part_is_named(folder: Path, part: str) -> None:
    shutil.rmtree(folder / part)
    assert f"folder {part!r} is missing" in refused(folder)


@pytest.mark.parametrize("part", WEIGHTS)
@pytest.mark.parametrize("kept", [0.5, 0.0], ids=["half", "empty"])
def test_truncated_weights_are_named(folder: Path, part: str, kept: float) -> None:
    file = folder / WEIGHTS[part]
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * kept)])
    assert part in refused(folder).replace(str(folder), "")


@pytest.mark.parametrize("part", WEIGHTS)
def test_a_tensor_that_lacks_is_an_error_not_a_random_one(folder: Path, part: str) -> None:
    file = folder / WEIGHTS[part]
    tensors = load_file(file)
    name = sorted(tensors)[7]
    del tensors[name]
    save_file(tensors, file, {"format": "pt"})
    assert f"lack {name!r}" in refused(folder)


@pytest.mark.parametrize("part", WEIGHTS)
def test_pickled_weights_are_refused(folder: Path, part: str) -> None:
    file = folder / WEIGHTS[part]
    torch.save(load_file(file), file.with_suffix(".bin"))
    if part == "text_encoder":
        file.with_suffix(".bin").rename(file.parent / "pytorch_model.bin")
    file.unlink()
    assert "safetensors" in refused(folder)


def test_parts_of_two_models_are_named(folder: Path) -> None:
    from transformers import CLIPTextConfig, CLIPTextModel

    options: dict[str, Any] = {
        "vocab_size": 623,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "intermediate_size": 32,
        "max_position_embeddings": 24,
    }
    CLIPTextModel(CLIPTextConfig(hidden_size=64, **options)).save_pretrained(
        folder / "text_encoder"
    )
    assert "text encoder gives 64 channels, the unet reads 32" in refused(folder)
    few = CLIPTextConfig(hidden_size=32, **{**options, "vocab_size": 100})
    CLIPTextModel(few).save_pretrained(folder / "text_encoder")
    assert "tokenizer has 623 entries, the text encoder 100 rows" in refused(folder)


def test_an_inpainting_network_is_refused(folder: Path) -> None:
    from diffusers import UNet2DConditionModel

    config = dict(tiny().denoiser.config)
    UNet2DConditionModel.from_config({**config, "in_channels": 9}).save_pretrained(folder / "unet")
    assert "inpainting" in refused(folder)


def test_a_tokenizer_without_vocabulary_is_refused(folder: Path) -> None:
    (folder / "tokenizer" / "tokenizer.json").unlink()
    assert "no tokenizer.json or vocab.json" in refused(folder)


@pytest.mark.parametrize("file", ["unet/config.json", "scheduler/scheduler_config.json"])
def test_broken_json_is_an_input_error(folder: Path, file: str) -> None:
    (folder / file).write_text("{")
    refused(folder)
    (folder / file).unlink()
    refused(folder)


def test_another_layout_is_not_ours(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "no installed plugin knows this layout" in refused(tmp_path / "empty")
    (folder / "unet").rename(folder / "transformer")
    assert "no installed plugin knows this layout" in refused(folder)


def test_names_that_are_nothing(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="'tinny', did you mean 'tiny'"):
        open_backbone("tinny")
    with pytest.raises(UnknownNameError, match="no folder"):
        open_backbone(tmp_path / "nowhere")
