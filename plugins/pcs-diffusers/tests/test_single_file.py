"""A file in the original release's naming is the folder it was made from."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from pcs_core.errors import InputError
from pcs_diffusers.stable_diffusion_xl import StableDiffusionXL
from pcs_diffusers.tiny import tiny_sdxl
from pcs_engine import open_backbone
from pcs_formats.weight_files import original_path
from pcs_testing import evaluate

INDEX = """{
  "_class_name": "StableDiffusionXLPipeline",
  "force_zeros_for_empty_prompt": true,
  "scheduler": ["diffusers", "EulerDiscreteScheduler"],
  "text_encoder": ["transformers", "CLIPTextModel"],
  "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
  "tokenizer": ["transformers", "CLIPTokenizer"],
  "tokenizer_2": ["transformers", "CLIPTokenizer"],
  "unet": ["diffusers", "UNet2DConditionModel"],
  "vae": ["diffusers", "AutoencoderKL"]
}"""


@pytest.fixture(scope="module")
def backbone() -> Any:
    return tiny_sdxl()


@pytest.fixture(scope="module")
def file(
    backbone: Any,
    tmp_path_factory: pytest.TempPathFactory,
    write_folder: Callable[[Any, Path], Path],
) -> Path:
    """The denoiser under its original names; what the file lacks stands beside it."""
    path = tmp_path_factory.mktemp("files") / "model.safetensors"
    tensors = {}
    for name, tensor in backbone.denoiser.state_dict().items():
        layer, _, kind = name.rpartition(".")
        tensors[f"model.diffusion_model.{original_path(layer, backbone.denoiser)}.{kind}"] = tensor
    save_file(tensors, path)
    folder = write_folder(backbone, path.with_suffix(""))
    (folder / "model_index.json").write_text(INDEX)
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    return path


def test_the_file_is_the_backbone(backbone: Any, file: Path) -> None:
    opened: Any = open_backbone(file)
    assert isinstance(opened, StableDiffusionXL)
    assert opened.latent_shape == backbone.latent_shape
    assert torch.equal(evaluate(opened), evaluate(backbone))
    assert opened.card.hash == open_backbone(file).card.hash


def test_what_the_file_lacks_is_said(file: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone.safetensors"
    alone.write_bytes(file.read_bytes())
    (tmp_path / "alone").mkdir()
    with pytest.raises(InputError, match="alone' does not load: .*text_encoder"):
        open_backbone(alone)  # it holds no text encoder
    for part in ("text_encoder", "text_encoder_2", "vae"):
        shutil.copytree(file.with_suffix("") / part, tmp_path / "alone" / part)
    with pytest.raises(InputError, match="a folder 'alone' beside it may hold what it lacks"):
        open_backbone(alone)


def test_other_files_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    save_file({"a.weight": torch.zeros(1)}, other)
    with pytest.raises(InputError, match="holds no denoiser"):
        open_backbone(other)
    other.write_bytes(b"nothing")
    with pytest.raises(InputError, match="is no safetensors file"):
        open_backbone(other)
