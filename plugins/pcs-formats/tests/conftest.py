"""diffusers' own pipelines over our networks, skeletons of releases, and what imports are compared by."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)

from pcs_core.backbone import Backbone
from pcs_core.storage import load
from pcs_diffusers.samplers import make_scheduler
from pcs_diffusers.skeletons import sd15, sdxl
from pcs_engine import open_backbone
from pcs_engine.restoring import restore
from pcs_testing import evaluate


@pytest.fixture(scope="session")
def pipeline_of() -> Callable[[Any], Any]:
    """Return what makes diffusers' pipeline of a backbone's parts."""
    return pipeline


@pytest.fixture(scope="session", name="evaluate_bare")
def evaluate_bare_fixture() -> Callable[..., torch.Tensor]:
    """Return what asks a network as another library left it."""
    return evaluate_bare


def pipeline(backbone: Any) -> Any:
    if backbone.card.family == "sd":
        return StableDiffusionPipeline(
            vae=backbone.vae,
            text_encoder=backbone.text_encoder,
            tokenizer=backbone.tokenizer.inner,
            unet=backbone.denoiser,
            scheduler=make_scheduler("ddim", backbone.scheduler_config),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    if backbone.card.family == "flux":
        return FluxPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler.from_config(backbone.scheduler_config),
            vae=backbone.vae,
            text_encoder=backbone.text_encoder.text_encoder,
            tokenizer=backbone.tokenizer.inner,
            text_encoder_2=backbone.text_encoder.t5,
            tokenizer_2=backbone.tokenizer.beside[0].inner,
            transformer=backbone.denoiser,
        )
    first, second = (t.inner for _, t in backbone.embedding.reads)
    texts = backbone.text_encoder
    if backbone.card.family == "sdxl":
        return StableDiffusionXLPipeline(
            vae=backbone.vae,
            text_encoder=texts.text_encoder,
            text_encoder_2=texts.text_encoder_2,
            tokenizer=first,
            tokenizer_2=second,
            unet=backbone.denoiser,
            scheduler=make_scheduler("euler", backbone.scheduler_config),
            add_watermarker=False,
        )
    return StableDiffusion3Pipeline(
        transformer=backbone.denoiser,
        scheduler=FlowMatchEulerDiscreteScheduler.from_config(backbone.scheduler_config),
        vae=backbone.vae,
        text_encoder=texts.text_encoder,
        tokenizer=first,
        text_encoder_2=texts.text_encoder_2,
        tokenizer_2=second,
        text_encoder_3=texts.t5,
        tokenizer_3=backbone.tokenizer.beside[0].inner,
    )


def evaluate_bare(backbone: Any) -> torch.Tensor:
    """Ask the network as peft left it; the sites of a backbone are those of its bare network."""
    vars(backbone).pop("sites", None)
    try:
        return evaluate(backbone)
    finally:
        vars(backbone).pop("sites", None)


@pytest.fixture(scope="session")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of Stable Diffusion 1.5's skeleton, as a command opens it."""
    folder = tmp_path_factory.mktemp("release") / "sd15"
    pipeline(sd15()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def opened(release: Path) -> Iterator[Callable[[str], Any]]:
    """Return what opens the skeleton of a family, one at a time."""
    backbones: dict[str, Backbone] = {}

    def open_one(family: str) -> Backbone:
        if family not in backbones:
            backbones.clear()
            backbones[family] = open_backbone(str(release)) if family == "sd" else sdxl()
        return backbones[family]

    yield open_one
    backbones.clear()


@pytest.fixture(scope="session")
def evaluate_artifact() -> Callable[..., torch.Tensor]:
    """Return what an artifact (none: nothing) makes a backbone predict, its uses at strengths by full name."""

    def predict(what: Any, backbone: Any, strengths: Any = None, **options: Any) -> torch.Tensor:
        artifact = load(what) if isinstance(what, Path) else what
        _, fusion = restore(artifact, backbone, 0, (), strengths or {})
        return evaluate(backbone, fusion, **options)

    return predict


@pytest.fixture(scope="session")
def run_pcs() -> Callable[..., int]:
    """Return what runs a command as a user does, and gives its exit code."""
    from pcs_cli.main import main

    return lambda *words: main([str(word) for word in words])
