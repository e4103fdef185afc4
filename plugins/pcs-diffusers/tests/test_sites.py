"""Sites: names, kinds and grid scales, compared with a run of the network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from pcs_diffusers.sites import unet_sites
from pcs_diffusers.tiny import tiny

SMALL = {"norm_num_groups": 8, "cross_attention_dim": 32, "attention_head_dim": 4}
TOPOLOGIES: dict[str, dict[str, Any]] = {
    "two levels": {
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    },
    "four levels": {
        "block_out_channels": (16, 16, 32, 32),
        "layers_per_block": 2,
        "down_block_types": ("DownBlock2D", *("CrossAttnDownBlock2D",) * 3),
        "up_block_types": (*("CrossAttnUpBlock2D",) * 3, "UpBlock2D"),
    },
}


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_grid_scales_equal_a_run(topology: str) -> None:
    unet = UNet2DConditionModel(sample_size=16, **TOPOLOGIES[topology], **SMALL)
    seen: dict[str, int] = {}

    def note(name: str) -> Any:
        def hook(_: Any, args: Any, kwargs: Any) -> None:
            hidden = args[0] if args else kwargs["hidden_states"]
            seen[name] = hidden.shape[1] if hidden.dim() == 3 else hidden.shape[2] * hidden.shape[3]

        return hook

    sites = [s for s in unet_sites(unet) if s.kind in ("self", "cross", "resnet")]
    for site in sites:
        unet.get_submodule(site.name).register_forward_pre_hook(note(site.name), with_kwargs=True)
    with torch.no_grad():
        unet(torch.zeros(1, 4, 16, 16), 1, encoder_hidden_states=torch.zeros(1, 5, 32))
    assert {s.name: (16 // s.scale) ** 2 for s in sites} == seen


def test_sites_say_what_is_there() -> None:
    backbone = tiny()
    assert len({str(s) for s in backbone.sites}) == len(backbone.sites)
    for site in backbone.sites:
        if site.layer:  # a place between layers, which is no module
            assert backbone.parts[site.part].get_submodule(site.layer)
            continue
        module: Any = backbone.parts[site.part].get_submodule(site.name)
        if site.kind in ("linear", "conv", "norm", "embedding"):
            assert site.shape == tuple(module.weight.shape)
        elif site.kind in ("self", "cross"):
            text = site.part == "text"  # transformers' names there, diffusers' elsewhere
            queries, keys = (module.q_proj, module.k_proj) if text else (module.to_q, module.to_k)
            assert site.heads == (module.num_heads if text else module.heads)
            assert queries.weight.shape == (site.width, site.width)
            assert keys.weight.shape == (site.width, site.context or site.width)
    attention = [s for s in backbone.sites if s.kind in ("self", "cross")]
    of_denoiser = {s.name + ".processor" for s in attention if s.part == "denoiser"}
    assert of_denoiser == set(backbone.denoiser.attn_processors)
    of_text = {s.name for s in attention if s.part == "text"}
    layers = backbone.parts["text"].config.num_hidden_layers
    assert len(of_text) == layers, "every layer of the text encoder is a site"


def test_tiny_is_the_same_network_every_time() -> None:
    state = torch.get_rng_state()
    assert tiny().card.hash == tiny().card.hash
    assert torch.equal(torch.get_rng_state(), state)
    assert sum(p.numel() for m in tiny().parts.values() for p in m.parameters()) < 1_500_000
