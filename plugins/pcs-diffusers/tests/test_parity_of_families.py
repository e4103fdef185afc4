"""With nothing attached, SDXL and SD 3 are diffusers' own pipelines; detaching restores them exactly."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    StableDiffusion3Pipeline,
    StableDiffusionXLPipeline,
)

from pcs_core.backbone import Attachment
from pcs_core.data import Fusion
from pcs_diffusers.tiny import tiny_sd3, tiny_sdxl
from pcs_engine import sample
from pcs_engine.randomness import generator
from pcs_testing import Snapshot, evaluate_attached

PROMPTS = ["a photo of a dog", "a red toy on the beach! grass (snow)"]


@pytest.fixture(scope="module")
def sdxl() -> Any:
    return tiny_sdxl()


@pytest.fixture(scope="module", params=[True, False], ids=["t5", "no t5"])
def sd3(request: pytest.FixtureRequest) -> Any:
    return tiny_sd3(with_t5=request.param)


def generators(seed: int) -> list[torch.Generator]:
    return [generator(seed + i, "noise") for i in range(len(PROMPTS))]


def noise(backbone: Any, seed: int, rngs: list[torch.Generator] | None = None) -> torch.Tensor:
    rngs = rngs or generators(seed)
    return torch.stack([torch.randn(backbone.latent_shape, generator=g) for g in rngs])


def drawn(pipeline: Any, latents: torch.Tensor, steps: int, **options: Any) -> torch.Tensor:
    pipeline.set_progress_bar_config(disable=True)
    images: torch.Tensor = pipeline(
        PROMPTS,
        latents=latents,
        num_inference_steps=steps,
        output_type="pt",
        **{"height": 32, "width": 32, **options},
    ).images
    return images


def xl_pipeline(backbone: Any, name: str) -> Any:
    ours = backbone.sampler(name, 2).scheduler
    first, second = (t for _, t in backbone.embedding.reads)
    return StableDiffusionXLPipeline(
        vae=backbone.vae,
        text_encoder=backbone.text_encoder.text_encoder,
        text_encoder_2=backbone.text_encoder.text_encoder_2,
        tokenizer=first.inner,
        tokenizer_2=second.inner,
        unet=backbone.denoiser,
        scheduler=type(ours).from_config(ours.config),
        add_watermarker=False,
    )


def three_pipeline(backbone: Any) -> Any:
    first, second = (t for _, t in backbone.embedding.reads)
    beside = backbone.tokenizer.beside
    return StableDiffusion3Pipeline(
        transformer=backbone.denoiser,
        scheduler=FlowMatchEulerDiscreteScheduler.from_config(backbone.scheduler_config),
        vae=backbone.vae,
        text_encoder=backbone.text_encoder.text_encoder,
        tokenizer=first.inner,
        text_encoder_2=backbone.text_encoder.text_encoder_2,
        tokenizer_2=second.inner,
        text_encoder_3=backbone.text_encoder.t5,
        tokenizer_3=beside[0].inner if beside else None,
    )


@pytest.mark.parametrize(
    "name", ["euler", "ddim", "dpm++", "dpm++2m-karras", "unipc", "euler-a", "lcm"]
)
def test_sdxl_equals_its_pipeline(sdxl: Any, name: str) -> None:
    ours = sample(None, sdxl, PROMPTS, seed=3, steps=4, scale=5.0, scheduler=name)
    rngs = generators(3)  # what schedulers add comes from them too, after the first noise
    theirs = drawn(
        *(xl_pipeline(sdxl, name), noise(sdxl, 3, rngs), 4), guidance_scale=5.0, generator=rngs
    )
    assert ours.std() > 0.01
    assert (ours - theirs).abs().max() < 1e-5


@pytest.mark.parametrize("family", ["sdxl", "sd3"])
def test_of_another_size_they_equal_their_pipelines(family: str) -> None:
    backbone: Any = tiny_sdxl() if family == "sdxl" else tiny_sd3()
    ours = sample(
        None, backbone, PROMPTS, size=(32, 48), seed=3, steps=3, scale=5.0, scheduler="euler"
    )
    shape = (backbone.latent_shape[0], backbone.latent_shape[1], backbone.latent_shape[2] * 3 // 2)
    rngs = [generator(3 + i, "noise") for i in range(len(PROMPTS))]
    latents = torch.stack([torch.randn(shape, generator=g) for g in rngs])
    pipeline = xl_pipeline(backbone, "euler") if family == "sdxl" else three_pipeline(backbone)
    more = {} if family == "sdxl" else {"max_sequence_length": backbone.t5_length}
    theirs = drawn(pipeline, latents, 3, guidance_scale=5.0, width=48, **more)
    assert (ours - theirs).abs().max() < 1e-5


def test_sdxl_equals_its_pipeline_with_a_negative_prompt(sdxl: Any) -> None:
    ours = sample(
        None, sdxl, PROMPTS, seed=3, steps=3, scale=5.0, scheduler="euler", negative="snow"
    )
    theirs = drawn(
        *(xl_pipeline(sdxl, "euler"), noise(sdxl, 3), 3),
        guidance_scale=5.0,
        negative_prompt=["snow"] * 2,
    )
    assert (ours - theirs).abs().max() < 1e-5


@pytest.mark.parametrize("negative", ["", "snow on grass"])
def test_sd3_equals_its_pipeline(sd3: Any, negative: str) -> None:
    ours = sample(None, sd3, PROMPTS, seed=3, steps=4, scale=5.0, negative=negative)
    theirs = drawn(
        *(three_pipeline(sd3), noise(sd3, 3), 4),
        guidance_scale=5.0,
        negative_prompt=[negative] * 2,
        max_sequence_length=sd3.t5_length,
    )
    assert ours.std() > 0.01
    assert (ours - theirs).abs().max() < 1e-5


def test_sd3_by_heun_equals_its_pipeline(sd3: Any) -> None:
    ours = sample(None, sd3, PROMPTS, seed=3, steps=3, scale=5.0, scheduler="heun")
    pipeline = three_pipeline(sd3)
    pipeline.scheduler = FlowMatchHeunDiscreteScheduler.from_config(sd3.scheduler_config)
    theirs = drawn(
        *(pipeline, noise(sd3, 3), 3), guidance_scale=5.0, max_sequence_length=sd3.t5_length
    )
    assert ours.std() > 0.01
    assert (ours - theirs).abs().max() < 1e-4


def test_texts_are_those_of_the_pipelines(sdxl: Any, sd3: Any) -> None:
    with torch.no_grad(), Attachment(sdxl, Fusion()) as net:
        ours = evaluate_attached(net, PROMPTS)
    theirs = xl_pipeline(sdxl, "ddim").encode_prompt(PROMPTS, device="cpu")
    latents = _latents(sdxl)
    plain = sdxl.denoiser(
        latents,
        400,
        encoder_hidden_states=theirs[0],
        added_cond_kwargs={
            "text_embeds": theirs[2],
            "time_ids": torch.tensor([[32.0, 32, 0, 0, 32, 32]] * 2),
        },
    ).sample
    assert torch.equal(ours.output, plain)
    with torch.no_grad(), Attachment(sd3, Fusion()) as net:
        ours = evaluate_attached(net, PROMPTS)
    text, _, pooled, _ = three_pipeline(sd3).encode_prompt(
        *(PROMPTS, PROMPTS, PROMPTS), device="cpu", max_sequence_length=sd3.t5_length
    )
    level = sd3.process.level(torch.tensor([400, 400]))
    plain = sd3.denoiser(
        _latents(sd3), encoder_hidden_states=text, pooled_projections=pooled, timestep=level.time
    ).sample
    assert torch.equal(ours.output, plain)


def _latents(backbone: Any) -> torch.Tensor:
    rng = torch.Generator().manual_seed(7)
    return torch.randn(2, *backbone.latent_shape, generator=rng)


@pytest.mark.parametrize("make", [tiny_sdxl, tiny_sd3], ids=["sdxl", "sd3"])
def test_detaching_restores_the_network_exactly(make: Any) -> None:
    backbone = make()
    before = Snapshot(backbone)
    with torch.no_grad(), Attachment(backbone, Fusion()) as net:
        attached = evaluate_attached(net, PROMPTS).output
        assert torch.equal(attached, evaluate_attached(net, PROMPTS, model="base").output)
    before.assert_unchanged()
