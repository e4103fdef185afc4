"""The shipped folder: small, half precision, and read by the ordinary classes."""

import pytest
import torch
from safetensors import safe_open

from pcs_mini.architecture import build_tokenizer
from pcs_mini.generate import load_parts, pictures, tokenise
from pcs_mini.metrics import stored
from pcs_mini.plugin import folder
from pcs_mini.training.latents import render
from pcs_mini.world.assets import SLICE_FILE, Assets
from pcs_mini.world.curriculum import known_population
from pcs_mini.world.grammar import vocabulary

pytestmark = pytest.mark.skipif(
    not (folder() / "model_index.json").exists(), reason="a source tree without trained weights"
)


@pytest.fixture(scope="module")
def parts():
    return load_parts(folder())


def test_size_and_precision():
    files = [p for root in (folder(), stored.FOLDER) for p in root.rglob("*") if p.is_file()]
    assert sum(path.stat().st_size for path in files) < 90e6
    weights = [path for path in files if path.suffix == ".safetensors"]
    assert len(weights) >= 7
    for path in weights:
        with safe_open(path, "pt") as file:
            kinds = {file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118
        assert kinds <= {"F16", "I64"}, path
    assert not [path for path in files if path.suffix == ".bin"]


def test_the_unet_has_the_size_and_layout_of_the_plan(parts):
    count = sum(p.numel() for p in parts.unet.parameters())
    assert 15e6 <= count <= 24e6
    config = parts.unet.config
    assert len(config.block_out_channels) >= 3
    assert "CrossAttnDownBlock2D" in config.down_block_types
    assert "CrossAttnUpBlock2D" in config.up_block_types
    assert config.mid_block_type == "UNetMidBlock2DCrossAttn"


def test_parts_load_and_draw(parts):
    words = vocabulary(Assets(SLICE_FILE))
    assert parts.tokenizer.get_vocab() == build_tokenizer(words).get_vocab()
    images = pictures(parts, ["a dog on the beach", "a sks zwx"], steps=2)
    assert images.shape == (2, 3, 128, 128)
    assert torch.isfinite(images).all()


def test_the_record_names_trained_members_of_the_world():
    population = known_population(folder(), Assets(SLICE_FILE))
    assert len(population.concepts) >= 20


def test_the_card_says_what_is_shipped():
    card = (folder() / "model_card.md").read_text("utf-8")
    for heading in ("## What the weights know", "## Metrics", "## Training", "128 x 128"):
        assert heading in card


def test_text_pools_at_the_end_of_text(parts):
    ids = tokenise(parts.tokenizer, ["a dog"])
    with torch.no_grad():
        out = parts.text_encoder(ids)
    end = int((ids[0] == parts.tokenizer.eos_token_id).nonzero()[0])
    torch.testing.assert_close(out.pooler_output[0], out.last_hidden_state[0, end])


def test_latents_have_unit_variance(parts):
    images, _, _ = render(Assets(SLICE_FILE), 0, 64, seed=5)
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        z = parts.vae.encode(x).latent_dist.mean
    assert parts.vae.config.scaling_factor == 1.0
    assert z.mean((0, 2, 3)).abs().max() < 0.25
    assert (z.std((0, 2, 3)) - 1).abs().max() < 0.2


def test_the_stable_diffusion_pipeline_reads_it():
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(folder(), safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline(
        "a cat in the snow", num_inference_steps=2, height=128, width=128, output_type="np"
    ).images
    assert image.shape == (1, 128, 128, 3)
