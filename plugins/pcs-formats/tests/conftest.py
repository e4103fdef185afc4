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

RANK = 2
"""Of FaceID's low-rank updates."""


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


@pytest.fixture(scope="session", name="released")
def released_fixture() -> Callable[..., dict[str, dict[str, Any]]]:
    """Return what writes an adapter of a kind in its published layout."""
    return released


def released(kind: str, unet: Any, feature: int, inner: int = 128) -> dict[str, dict[str, Any]]:
    """Return the two groups of a release's file for ``unet``, by the authors' layout."""
    rng, width = torch.Generator().manual_seed(4), int(unet.config.cross_attention_dim)

    def drawn(*shape: int, by: float = 0.2) -> torch.Tensor:
        return by * torch.randn(*shape, generator=rng)

    def linear(name: str, out: int, into: int, *, bias: bool = True) -> dict[str, Any]:
        weight = {f"{name}.weight": drawn(out, into, by=into**-0.5)}
        return weight | ({f"{name}.bias": drawn(out)} if bias else {})

    def norm(name: str, size: int) -> dict[str, Any]:
        return {f"{name}.weight": 1 + drawn(size), f"{name}.bias": drawn(size)}

    def perceiver(at: str) -> dict[str, Any]:
        parts = linear(f"{at}proj_in", inner, feature) | linear(f"{at}proj_out", width, inner)
        parts |= norm(f"{at}norm_out", width)
        for layer in range(4):  # as many as diffusers takes for granted
            read, ff = f"{at}layers.{layer}.0", f"{at}layers.{layer}.1"
            for name in (f"{read}.norm1", f"{read}.norm2", f"{ff}.0"):
                parts |= norm(name, inner)
            parts |= linear(f"{read}.to_q", 128, inner, bias=False)
            parts |= linear(f"{read}.to_kv", 256, inner, bias=False)
            parts |= linear(f"{read}.to_out", inner, 128, bias=False)
            parts |= linear(f"{ff}.1", 4 * inner, inner, bias=False)
            parts |= linear(f"{ff}.3", inner, 4 * inner, bias=False)
        return parts

    if kind == "plain":
        proj = linear("proj", 4 * width, feature) | norm("norm", width)
    elif kind == "full":
        proj = linear("proj.0", feature, feature) | linear("proj.2", width, feature)
        proj |= norm("proj.3", width)
    elif (
        kind == "face-perceiver"
    ):  # 16: channels of the face's vector; ``inner`` is the text's width
        inner = width
        proj = linear("proj.0", 2 * 16, 16) | linear("proj.2", 4 * inner, 2 * 16)
        proj |= norm("norm", inner) | perceiver("perceiver_resampler.")
    elif kind == "face":
        proj = linear("proj.0", 2 * feature, feature) | linear("proj.2", 4 * width, 2 * feature)
        proj |= norm("norm", width)
    else:
        proj = {"latents": drawn(1, 5, inner), **perceiver("")}
    attention: dict[str, Any] = {}
    for number, name in enumerate(unet.attn_processors):
        layer = unet.get_submodule(name.removesuffix(".processor"))
        if ".attn2." in name:
            for which in ("k", "v"):
                size = layer.to_k.weight.shape
                attention |= linear(f"{number}.to_{which}_ip", *size, bias=False)
        if kind.startswith("face"):
            for which, module in (
                ("q", layer.to_q),
                ("k", layer.to_k),
                ("v", layer.to_v),
                ("out", layer.to_out[0]),
            ):
                out, into = module.weight.shape
                attention[f"{number}.to_{which}_lora.down.weight"] = drawn(RANK, into)
                attention[f"{number}.to_{which}_lora.up.weight"] = drawn(out, RANK)
    return {"image_proj": proj, "ip_adapter": attention}
