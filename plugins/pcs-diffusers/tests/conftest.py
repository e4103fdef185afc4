"""Folders of the tiny backbones, as diffusers writes them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from pcs_diffusers.samplers import DiffusersSampler
from pcs_diffusers.tiny import write_tiny


def write(backbone: Any, folder: Path) -> Path:
    """Write a tiny backbone in its layout."""
    for name, encoder in backbone.text_encoder.named_children():
        encoder.save_pretrained(folder / name)
    for number, (_, tokenizer) in enumerate(backbone.embedding.reads):
        tokenizer.inner.save_pretrained(folder / f"tokenizer{'_2' if number else ''}")
    for tokenizer in backbone.tokenizer.beside:
        number = 2 if backbone.card.family.startswith("flux") else 3
        tokenizer.inner.save_pretrained(folder / f"tokenizer_{number}")
    backbone.vae.save_pretrained(folder / "vae")
    if backbone.card.family == "sdxl":
        backbone.denoiser.save_pretrained(folder / "unet")
        scheduler = DiffusersSampler("euler", backbone.scheduler_config, 1, torch.device("cpu"))
        scheduler.scheduler.save_pretrained(folder / "scheduler")
    else:
        backbone.denoiser.save_pretrained(folder / "transformer")
        config = FlowMatchEulerDiscreteScheduler.from_config(backbone.scheduler_config)
        config.save_pretrained(folder / "scheduler")
    return folder


@pytest.fixture(scope="session")
def write_folder() -> Callable[[Any, Path], Path]:
    """Write a tiny SDXL, SD 3 or FLUX backbone in its layout."""
    return write


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny SD backbone; take ``folder`` to change something."""
    return write_tiny(tmp_path_factory.mktemp("models") / "whole")


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """Return a copy of that folder."""
    return Path(shutil.copytree(whole, tmp_path / "copy"))
