"""Deltas of keys and values against diffusers' Custom Diffusion processor, with the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import Attention, CustomDiffusionAttnProcessor

from pcs_core.backbone import Backbone
from pcs_core.data import AttnEdit, AttnState, Conditioning
from pcs_testing import build_fusion, evaluate, make_recipe, make_subject, perturb
from pcs_weights.kv import KVDelta, ProjectionDelta

PROMPTS = ("a photo of a dog", "a red toy on the beach")


def fusion_of(backbone: Backbone, **settings: Any) -> Any:
    fusion = build_fusion(make_recipe([KVDelta(**settings)]), [make_subject()], backbone)
    perturb(fusion, scale=0.2)
    return fusion


def with_processors(backbone: Any, fusion: Any, body: Any) -> Any:
    """Return ``body()`` while diffusers' processors hold W + delta at every cross-attention site."""
    kept = {}
    for edit in fusion.of(AttnEdit):
        layer: Attention = backbone.denoiser.get_submodule(edit.site.name)
        kept[layer] = layer.processor
        processor: Any = CustomDiffusionAttnProcessor(
            train_kv=True,
            train_q_out=False,
            hidden_size=layer.to_q.in_features,
            cross_attention_dim=layer.to_k.in_features,
        )
        with torch.no_grad():
            processor.to_k_custom_diffusion.weight.copy_(layer.to_k.weight + edit.k[0])
            processor.to_v_custom_diffusion.weight.copy_(layer.to_v.weight + edit.v[0])
        layer._modules.pop("processor", None)
        layer.processor = processor
    try:
        return body()
    finally:
        for layer, processor in kept.items():
            layer._modules.pop("processor", None)
            layer.processor = processor


def test_the_network_computes_what_diffusers_processors_compute(backbone: Backbone) -> None:
    fusion = fusion_of(backbone)
    ours = evaluate(backbone, fusion, PROMPTS)
    theirs = with_processors_outside(backbone, fusion)
    assert (ours - evaluate(backbone, prompts=PROMPTS)).abs().max() > 1e-3
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def with_processors_outside(backbone: Any, fusion: Any) -> torch.Tensor:
    """Return the denoiser's answer with diffusers' processors and nothing of ours attached."""
    from pcs_core.backbone import tokenise

    text = backbone.encode_ids(tokenise(PROMPTS, backbone.tokenizer).ids)[0]
    rng = torch.Generator().manual_seed(7)  # that of `evaluate`
    latents = torch.randn(len(PROMPTS), *backbone.latent_shape, generator=rng)
    time = torch.full((len(PROMPTS),), 400)
    with torch.no_grad():
        plain = backbone.denoiser(latents, time, text).sample
        alike = evaluate(backbone, prompts=PROMPTS)
        torch.testing.assert_close(plain, alike, rtol=1e-4, atol=1e-5)
        return with_processors(
            backbone, fusion, lambda: backbone.denoiser(latents, time, text).sample
        )


@pytest.mark.parametrize("width", [320, 1280])
@pytest.mark.parametrize("hold", [True, False])
def test_a_site_of_real_width_and_what_its_first_token_teaches(width: int, hold: bool) -> None:
    """Outputs and gradients of one SD 1.5 site; the published code learns nothing from the start token."""
    from pcs_core.data import Site

    torch.manual_seed(0)
    layer = Attention(width, cross_attention_dim=768, heads=8, dim_head=width // 8)
    site = Site("x", "denoiser", "cross", width=width, context=768, heads=8)
    edit = ProjectionDelta(site, ("k", "v"), 1, 1.0, hold_start=hold)
    processor: Any = CustomDiffusionAttnProcessor(
        train_kv=True, train_q_out=False, hidden_size=width, cross_attention_dim=768
    )
    with torch.no_grad():
        for part in ("k", "v"):
            getattr(edit, part).copy_(0.01 * torch.randn(1, width, 768))
            base = getattr(layer, f"to_{part}").weight
            getattr(processor, f"to_{part}_custom_diffusion").weight.copy_(
                base + getattr(edit, part)[0]
            )
    x, text = torch.randn(2, 16, width), torch.randn(2, 77, 768)
    given = [layer.to_q(x).detach(), layer.to_k(text).detach(), layer.to_v(text).detach()]
    cond = Conditioning(text=text, subject=torch.zeros(2, dtype=torch.long))
    state = edit.qkv(AttnState(site, x, text, 8, *given), cond)
    q, k, v = (t.unflatten(2, (8, -1)).transpose(1, 2) for t in (state.q, state.k, state.v))
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    ours = layer.to_out[0](out)
    theirs = processor(layer, x, text)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    ours.square().sum().backward()
    theirs.square().sum().backward()
    same = [
        torch.allclose(
            getattr(edit, part).grad[0],
            getattr(processor, f"to_{part}_custom_diffusion").weight.grad,
            rtol=1e-3,
            atol=1e-3,
        )
        for part in ("k", "v")
    ]
    assert same == [hold, hold]


@pytest.mark.parametrize("hold", [True, False])
def test_at_a_joint_site_queries_of_the_picture_and_keys_of_the_text_move(hold: bool) -> None:
    """q, k and v hold the picture's rows first and the text's behind; each delta stays in its own."""
    from pcs_core.data import Site

    torch.manual_seed(0)
    site = Site("x", "denoiser", "joint", width=8, context=12, heads=2)
    edit = ProjectionDelta(site, ("q", "k", "v"), 1, 0.5, hold_start=hold)
    for part in ("q", "k", "v"):
        torch.nn.init.normal_(getattr(edit, part))
    x, text = torch.randn(2, 5, 8), torch.randn(2, 3, 12)
    before = {part: torch.randn(2, 8, 8) for part in "qkv"}
    cond = Conditioning(text=text, subject=torch.zeros(2, dtype=torch.long))
    state = edit.qkv(AttnState(site, x, text, 2, *before.values()), cond)
    for part in "qkv":
        weight, change = getattr(edit, part)[0], torch.zeros(2, 8, 8)
        if part == "q":
            change[:, :5] = 0.5 * x @ weight.T
        else:
            change[:, 5:] = 0.5 * text @ weight.T
        torch.testing.assert_close(getattr(state, part), before[part] + change)
    (state.k.square().sum() + state.v.square().sum()).backward()
    for part in ("k", "v"):  # a start-of-text token that is held teaches nothing
        moved = getattr(state, part).detach()[:, 5 + hold :]
        taught = torch.einsum("bmo,bmi->oi", moved, text[:, int(hold) :])
        torch.testing.assert_close(getattr(edit, part).grad[0], taught)
