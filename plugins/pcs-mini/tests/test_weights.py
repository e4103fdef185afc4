"""The shipped folder: small, half precision, and read by the ordinary classes."""

import pytest
import torch
from safetensors import safe_open

from pcs_mini.generate import load_parts, pictures, tokenise
from pcs_mini.plugin import folder
from pcs_mini.tokenizer import build_tokenizer

pytestmark = pytest.mark.skipif(
    not (folder() / "model_index.json").exists(), reason="a source tree without trained weights"
)


def test_size_and_precision():
    size = sum(path.stat().st_size for path in folder().rglob("*") if path.is_file())
    assert size < 40 * 2**20
    for path in folder().rglob("*.safetensors"):
        with safe_open(path, "pt") as file:
            kinds = {file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118
        assert kinds <= {"F16", "I64"}, path
    assert not list(folder().rglob("*.bin"))


def test_parts_load_and_draw():
    parts = load_parts(folder())
    assert parts.tokenizer.get_vocab() == build_tokenizer().get_vocab()
    images = pictures(parts, ["a dog on the beach", "a sks zwx"], steps=2)
    assert images.shape == (2, 3, 64, 64)
    assert torch.isfinite(images).all()


def test_text_pools_at_the_end_of_text():
    parts = load_parts(folder())
    ids = tokenise(parts.tokenizer, ["a dog"])
    with torch.no_grad():
        out = parts.text_encoder(ids)
    end = int((ids[0] == parts.tokenizer.eos_token_id).nonzero()[0])
    torch.testing.assert_close(out.pooler_output[0], out.last_hidden_state[0, end])


def test_latents_have_unit_variance():
    from pcs_mini.evaluate import to_tensor
    from pcs_mini.world.pool import render_pool

    vae = load_parts(folder()).vae
    with torch.no_grad():
        z = vae.encode(to_tensor(render_pool(64, 5).images) * 2 - 1).latent_dist.mean
    assert vae.config.scaling_factor == 1.0
    assert z.mean((0, 2, 3)).abs().max() < 0.2
    assert (z.std((0, 2, 3)) - 1).abs().max() < 0.15


def test_the_stable_diffusion_pipeline_reads_it():
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(folder(), safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline(
        "a cat in the snow", num_inference_steps=2, height=64, width=64, output_type="np"
    ).images
    assert image.shape == (1, 64, 64, 3)
