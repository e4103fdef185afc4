"""A rescaled guidance draws what diffusers' pipelines draw with ``guidance_rescale``."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline

from pcs_core import load_preset, open_backbone, sample
from pcs_core.errors import CapabilityError
from pcs_diffusers.tiny import tiny_tokens
from pcs_engine.randomness import generator
from pcs_guidance.rescale import spread

PROMPTS = ["a red toy", "a dog on the beach"]
STEPS: Any = {"steps": 4, "scale": 9.0, "scheduler": "ddim"}


def rescaled(amount: float) -> Any:
    change = f"guidance.rescale.amount={amount}"
    return load_preset(techniques=["guidance.rescale"], overrides=[change])


@pytest.mark.parametrize("id", ["tiny", "tiny-v"])
@pytest.mark.parametrize("amount", [0.7, 1.0])
def test_it_draws_what_the_pipeline_draws(id: str, amount: float) -> None:
    backbone: Any = open_backbone(id)
    ours = sample(None, backbone, PROMPTS, seed=4, preset=rescaled(amount), **STEPS)
    scheduler = backbone.sampler("ddim", 4).scheduler
    pipe = StableDiffusionPipeline(
        vae=backbone.vae,
        text_encoder=backbone.text_encoder,
        tokenizer=backbone.tokenizer.inner,
        unet=backbone.denoiser,
        scheduler=type(scheduler).from_config(scheduler.config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    noise = [
        torch.randn(backbone.latent_shape, generator=generator(4 + i, "noise")) for i in (0, 1)
    ]
    theirs = pipe(
        PROMPTS,
        latents=torch.stack(noise),
        num_inference_steps=4,
        guidance_scale=9.0,
        guidance_rescale=amount,
        height=32,
        width=32,
        output_type="pt",
    ).images
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    plain = sample(None, backbone, PROMPTS, seed=4, **STEPS)
    assert (ours - plain).abs().max() > 1e-3


@pytest.mark.parametrize("id", ["tiny-sd3", "tiny-sdxl", "tiny-video"])
def test_nothing_of_it_and_no_guidance_change_no_picture(id: str) -> None:
    backbone = open_backbone(id)
    numbers: Any = {"steps": 2, "seed": 1}
    plain = sample(None, backbone, PROMPTS[:1], scale=6.0, **numbers)
    none = sample(None, backbone, PROMPTS[:1], scale=6.0, preset=rescaled(0.0), **numbers)
    assert torch.equal(plain, none)
    whole = sample(None, backbone, PROMPTS[:1], scale=6.0, preset=rescaled(1.0), **numbers)
    assert (whole - plain).abs().max() > 1e-4
    unguided = [
        sample(None, backbone, PROMPTS[:1], scale=1.0, preset=preset, **numbers)
        for preset in (None, rescaled(1.0))
    ]
    assert torch.equal(*unguided)


def test_the_spread_is_each_rows_own() -> None:
    rows = torch.stack([torch.arange(12.0), 3 * torch.arange(12.0)]).view(2, 3, 2, 2)
    widths = spread(rows)
    assert widths.shape == (2, 1, 1, 1)
    torch.testing.assert_close(widths[1], 3 * widths[0])
    assert float(spread(torch.zeros(1, 3, 2, 2))) > 0


def test_tokens_are_refused() -> None:
    with pytest.raises(CapabilityError, match="predicts tokens"):
        sample(None, tiny_tokens(), PROMPTS[:1], steps=2, scale=3.0, preset=rescaled(0.7))
