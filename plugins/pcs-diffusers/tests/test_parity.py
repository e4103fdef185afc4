"""With nothing attached, our sample loop is the plain diffusers pipeline."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline

from pcs_diffusers.tiny import tiny, tiny_v
from pcs_engine import sample
from pcs_engine.randomness import generator

PROMPTS = ["a photo of a dog", "a red toy on the beach, grass (snow)!"]
MAKERS = {"epsilon": tiny, "v_prediction": tiny_v}


@pytest.fixture(scope="module", params=MAKERS)
def backbone(request: pytest.FixtureRequest) -> Any:
    return MAKERS[request.param]()


def drawn_by_diffusers(backbone: Any, name: str, *, seed: int, steps: int, **options: Any) -> Any:
    ours = backbone.sampler(name, 2).scheduler
    pipeline = StableDiffusionPipeline(
        vae=backbone.vae,
        text_encoder=backbone.text_encoder,
        tokenizer=backbone.tokenizer.inner,
        unet=backbone.denoiser,
        scheduler=type(ours).from_config(ours.config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    noise = [generator(seed + i, "noise") for i in range(len(PROMPTS))]
    latents = torch.stack([torch.randn(backbone.latent_shape, generator=g) for g in noise])
    return pipeline(
        PROMPTS,
        latents=latents,
        num_inference_steps=steps,
        output_type="pt",
        height=32,
        width=32,
        generator=noise,  # what schedulers add comes from the same generators, after the first noise
        **options,
    ).images


@pytest.mark.parametrize(
    "name",
    [
        *(
            "ddim",
            "dpm++",
            "euler",
            "unipc",
            "dpm++2m-karras",
            "unipc-karras",
            "heun",
            "euler-karras",
        ),
        *("euler-a", "lcm", "ddpm"),
    ],
)
def test_equals_the_pipeline(backbone: Any, name: str) -> None:
    ours = sample(None, backbone, PROMPTS, seed=3, steps=9, scale=5.0, scheduler=name)
    theirs = drawn_by_diffusers(backbone, name, seed=3, steps=9, guidance_scale=5.0)
    assert ours.shape == (2, 3, 32, 32)
    assert ours.std() > 0.01
    assert (ours - theirs).abs().max() < 1e-5


def test_equals_the_pipeline_without_guidance_and_with_a_negative_prompt(backbone: Any) -> None:
    ours = sample(None, backbone, PROMPTS, steps=4, scale=1.0, scheduler="ddim")
    theirs = drawn_by_diffusers(backbone, "ddim", seed=0, steps=4, guidance_scale=1.0)
    assert (ours - theirs).abs().max() < 1e-5
    ours = sample(None, backbone, PROMPTS, steps=4, scale=3.0, negative="snow", scheduler="ddim")
    theirs = drawn_by_diffusers(
        backbone, "ddim", seed=0, steps=4, guidance_scale=3.0, negative_prompt=["snow"] * 2
    )
    assert (ours - theirs).abs().max() < 1e-5


@pytest.mark.parametrize(
    "name", ["ddim", "dpm++", "euler", "unipc", "lcm", "ddpm", "euler-a", "dpm++2m-sde", "dpm++sde"]
)
def test_a_picture_does_not_depend_on_what_is_drawn_beside_it(backbone: Any, name: str) -> None:
    together = sample(
        None, backbone, PROMPTS[0], count=3, seed=5, steps=3, scale=2.0, scheduler=name
    )
    alone = sample(None, backbone, PROMPTS[0], seed=7, steps=3, scale=2.0, scheduler=name)
    assert (together[2] - alone[0]).abs().max() < 1e-5
    assert (together[0] - together[1]).abs().max() > 1e-3
