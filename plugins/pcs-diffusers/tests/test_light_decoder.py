"""Decoders of the TAESD class: read from a folder, checked against the backbone's latents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderTiny

from pcs_core import open_backbone
from pcs_core.errors import CapabilityError, InputError
from pcs_diffusers.light_decoder import FOLDER


def tiny_decoder(folder: Path, *, channels: int = 4, blocks: int = 2) -> Path:
    widths = (8,) * blocks
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoencoderTiny(
            latent_channels=channels,
            encoder_block_out_channels=widths,
            decoder_block_out_channels=widths,
            num_encoder_blocks=(1,) * blocks,
            num_decoder_blocks=(1,) * blocks,
        )
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def backbone() -> Any:
    return open_backbone("tiny")


def test_a_folder_decodes_as_diffusers_does(backbone: Any, tmp_path: Path) -> None:
    folder = tiny_decoder(tmp_path / "light")
    latents = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    images = backbone.light_decoder(str(folder))(latents)
    assert images.shape == (2, 3, 32, 32)
    model = AutoencoderTiny.from_pretrained(folder)
    with torch.no_grad():
        expected = (model.decode(latents).sample / 2 + 0.5).clamp(0, 1)
    assert torch.equal(images, expected)
    assert images.std() > 0


def test_a_backbones_folder_may_hold_its_own(backbone: Any, tmp_path: Path) -> None:
    networks = {"unet": "denoiser", "vae": "vae", "text_encoder": "text"}
    for folder, part in networks.items():
        backbone.parts[part].save_pretrained(tmp_path / folder)
    backbone.tokenizer.inner.save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "scheduler").mkdir()
    import json

    config = json.dumps(backbone.scheduler_config)
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(config)
    opened = open_backbone(tmp_path)
    with pytest.raises(CapabilityError, match="comes with no light decoder"):
        opened.light_decoder()  # type: ignore[attr-defined]
    tiny_decoder(tmp_path / FOLDER)
    latents = torch.zeros(1, 4, 16, 16)
    assert opened.light_decoder()(latents).shape == (1, 3, 32, 32)  # type: ignore[attr-defined]


def test_the_tiny_network_comes_with_a_random_one(backbone: Any) -> None:
    images = backbone.light_decoder()(torch.zeros(1, 4, 16, 16))
    assert images.shape == (1, 3, 32, 32)
    assert torch.equal(images, open_backbone("tiny").light_decoder()(torch.zeros(1, 4, 16, 16)))  # type: ignore[attr-defined]


def test_what_does_not_fit_is_refused(backbone: Any, tmp_path: Path) -> None:
    deep = tiny_decoder(tmp_path / "deep", channels=8, blocks=3)
    with pytest.raises(CapabilityError, match="8 channels and enlarges 4 times.*4 channels and 2"):
        backbone.light_decoder(str(deep))
    with pytest.raises(InputError, match="'nowhere' is no folder"):
        backbone.light_decoder("nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="does not load"):
        backbone.light_decoder(str(tmp_path / "empty"))
