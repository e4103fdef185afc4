"""The same weights give what diffusers' own IP-Adapter gives: projectors, and a UNet's prediction."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
from diffusers.models.embeddings import ImageProjection, IPAdapterPlusImageProjection
from torch import nn

from pcs_attention.image_tokens import LinearTokens, Perceiver
from pcs_attention.parallel_adapter import ParallelAdapter, ParallelAttention
from pcs_core import open_backbone
from pcs_core.backbone import Attachment
from pcs_core.catalogue import catalogue
from pcs_core.data import Conditioning
from pcs_testing import build_fusion, make_recipe, make_subject

CLOSE = 1e-5


def copied(theirs: nn.Module, ours: nn.Module, names: dict[str, str]) -> None:
    """Give ``theirs`` random weights and ``ours`` the same, names of theirs as ``names`` translate them."""
    torch.manual_seed(3)
    parameters = dict(ours.named_parameters())
    with torch.no_grad():
        for name, value in theirs.named_parameters():
            value.copy_(torch.randn_like(value) * 0.3 + (0.7 if "norm" in name else 0.0))
            parameters.pop(translate(name, names)).copy_(
                value.view_as(held_shape(ours, name, names))
            )
    assert not parameters, "every weight of ours has one of theirs"


def translate(name: str, names: dict[str, str]) -> str:
    for theirs, ours in names.items():
        name = name.replace(theirs, ours)
    return name


def held_shape(ours: nn.Module, name: str, names: dict[str, str]) -> torch.Tensor:
    return ours.get_parameter(translate(name, names))


@pytest.mark.parametrize("width", [768, 1024, 2048])
def test_linear_tokens_are_those_of_diffusers(width: int) -> None:
    theirs, ours = ImageProjection(1024, width, 4), LinearTokens("image", 1024, width, 4)
    copied(theirs, ours, {"image_embeds": "project"})
    given = torch.randn(2, 1024)
    assert ours.stream(given[:, None]).shape == (2, 4, width)
    torch.testing.assert_close(ours.stream(given[:, None]), theirs(given), atol=CLOSE, rtol=1e-5)


NAMES = {
    "latents": "queries",
    "proj_in": "inward",
    "proj_out": "outward",
    "norm_out": "norm",
    ".ln0": ".norm_features",
    ".ln1": ".norm_queries",
    ".attn.to_out.0": ".to_out",
    ".attn.": ".",
    ".ff.0": ".feed.0",
    ".ff.1.net.0.proj": ".feed.1",
    ".ff.1.net.2": ".feed.3",
}


@pytest.mark.parametrize(
    ("feature", "inner", "heads", "width"),
    [(512, 1280, 20, 2048), (512, 1280, 20, 768), (1280, 768, 12, 768)],
    ids=["instantid-sdxl", "instantid-sd", "ip-adapter-plus"],
)
def test_the_perceiver_is_that_of_diffusers(
    feature: int, inner: int, heads: int, width: int
) -> None:
    theirs = IPAdapterPlusImageProjection(feature, width, inner, 1, 64, heads, 16)
    ours = Perceiver("face", feature, width, 16, inner=inner, depth=1, heads=heads, head_width=64)
    copied(theirs, ours, NAMES)
    given = torch.randn(2, 3, feature)
    tokens = ours.stream(given)
    assert tokens.shape == (2, 16, width)
    torch.testing.assert_close(tokens, theirs(given), atol=CLOSE, rtol=1e-5)


@pytest.mark.parametrize("width", [768, 1024, 2048])
def test_instantid_s_heads_need_not_divide_the_width_of_the_text(width: int) -> None:
    """20 heads of 64 divide neither SD's 768 nor SDXL's 2048: the perceiver has 1280 channels of its own."""
    adapter = ParallelAdapter.from_settings({"key": "face", "projector": "perceiver", "tokens": 16})
    stream = adapter._projector(512, width)
    assert stream.stream(torch.randn(1, 1, 512)).shape == (1, 16, width)


def predictions(scale: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return what a UNet predicts with our adapter, with diffusers' of the same weights, and bare."""
    backbone: Any = open_backbone("tiny")
    encoder = catalogue().get("techniques", "encoders.image").from_settings({"model": "tiny.image"})
    adapter = ParallelAdapter.from_settings({"tokens": 4})
    fusion = build_fusion(make_recipe([encoder, adapter]), [make_subject()], backbone)
    torch.manual_seed(5)
    for edit in fusion.of(ParallelAttention):
        for layer in (edit.to_k, edit.to_v):
            nn.init.normal_(layer.weight, std=0.2)
    latents, text = torch.randn(2, 4, 16, 16), torch.randn(2, 7, 32)
    time, tokens = torch.tensor([800, 30]), torch.randn(2, 4, 32)
    cond = Conditioning(
        text=text, streams={"image": tokens}, extra={"image.scale": torch.full((2,), scale)}
    )
    with Attachment(backbone, fusion) as net, torch.no_grad(), net.under(cond=cond):
        ours = backbone.denoise(latents, time, cond)
    unet = backbone.denoiser
    before = dict(unet.attn_processors)
    by_site = {edit.site.name: edit for edit in fusion.of(ParallelAttention)}
    try:
        unet.set_attn_processor(
            {name: processor(name, before[name], by_site, scale) for name in before}
        )
        with torch.no_grad():
            theirs = unet(latents, time, encoder_hidden_states=(text, [tokens[:, None]])).sample
    finally:
        unet.set_attn_processor(before)
    with torch.no_grad():
        plain = unet(latents, time, encoder_hidden_states=text).sample
    return ours, theirs, plain


def processor(name: str, before: Any, by_site: dict[str, ParallelAttention], scale: float) -> Any:
    edit = by_site.get(name.removesuffix(".processor"))
    if edit is None:
        return before
    width, context = edit.to_k.weight.shape
    made = IPAdapterAttnProcessor2_0(width, context, num_tokens=(4,), scale=[scale])
    with torch.no_grad():
        made.to_k_ip[0].weight.copy_(edit.to_k.weight)
        made.to_v_ip[0].weight.copy_(edit.to_v.weight)
    return made


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_a_unet_with_the_adapter_predicts_as_diffusers(scale: float) -> None:
    ours, theirs, plain = predictions(scale)
    assert float((ours - plain).abs().max()) > 1e-3, "the adapter says something"
    torch.testing.assert_close(ours, theirs, atol=CLOSE, rtol=1e-5)
