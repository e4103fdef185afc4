"""Edits attached after a compile are seen; copies of an attached network are their own."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from pcs_core.backbone import Attachment, Backbone, select_sites
from pcs_core.data import (
    AttnEdit,
    AttnState,
    Conditioning,
    Fusion,
    LayerEdit,
    ReplaceEdit,
    WeightEdit,
)
from pcs_engine import open_backbone
from pcs_testing import evaluate, evaluate_attached, make_recipe, make_subject, perturb
from pcs_testing.fixtures import build_fusion
from pcs_testing.probe import Probe

PROMPTS = ("a photo of a dog",)


class Louder(LayerEdit):
    def after(self, y: Tensor, cond: Conditioning | None) -> Tensor:
        return y * 2


class More(WeightEdit):
    def residual(self, x: Tensor, y: Tensor, cond: Conditioning | None) -> Tensor:
        return y


class Values(AttnEdit):
    def qkv(self, state: AttnState, cond: Conditioning) -> AttnState:
        state.v = state.v * 2
        return state


def every_kind(backbone: Backbone) -> dict[str, Fusion]:
    resnet = select_sites(backbone.sites, "mid_block*", kind="resnet")[0]
    linear = select_sites(backbone.sites, "mid_block*.to_k")[0]
    attention = select_sites(backbone.sites, "mid_block*", kind="cross")
    path = "mid_block.resnets.0.conv1.weight"
    swap = ReplaceEdit(
        "denoiser", {path: dict(backbone.parts["denoiser"].named_parameters())[path]}
    )
    with torch.no_grad():
        next(iter(swap.targets().values())).mul_(2)
    return {
        "layers": Fusion(edits=(Louder(resnet),)),
        "weights": Fusion(edits=(More(linear),)),
        "attention": Fusion(edits=tuple(Values(s) for s in attention)),
        "swaps": Fusion(edits=(swap,)),
    }


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_network_sees_edits_that_come_later() -> None:
    torch._dynamo.reset()
    backbone: Any = open_backbone("tiny")
    kinds = every_kind(backbone)
    together = Fusion(edits=tuple(e for f in kinds.values() for e in f.edits))
    plain = evaluate(backbone, prompts=PROMPTS)
    eager = evaluate(backbone, together, PROMPTS)
    for kind in kinds:  # each kind matters to the eager answer
        rest = Fusion(edits=tuple(e for k, f in kinds.items() if k != kind for e in f.edits))
        assert (evaluate(backbone, rest, PROMPTS) - eager).abs().max() > 1e-4, kind
    block = backbone.denoiser.mid_block  # a resnet, self and cross attention, another resnet
    block.compile(backend="aot_eager")
    try:
        assert torch.allclose(evaluate(backbone, prompts=PROMPTS), plain, atol=1e-6)
        with torch.no_grad(), Attachment(backbone, together) as net:
            moved = evaluate_attached(net, PROMPTS).output
            base = evaluate_attached(net, PROMPTS, model="base").output
            again = evaluate_attached(net, PROMPTS).output
        assert torch.allclose(moved, eager, atol=1e-6)
        assert torch.allclose(again, eager, atol=1e-6)
        assert torch.allclose(base, plain, atol=1e-6)
        assert torch.allclose(evaluate(backbone, prompts=PROMPTS), plain, atol=1e-6)
    finally:
        block._compiled_call_impl = None
        torch._dynamo.reset()


def test_a_copy_of_an_attached_network_has_its_own_edits(backbone: Backbone) -> None:
    unet: Any = backbone.parts["denoiser"]
    fusion = build_fusion(make_recipe([Probe()]), [make_subject()], backbone)
    layer = More(select_sites(backbone.sites, "*.to_k")[0])
    fusion = Fusion(edits=(*fusion.of(AttnEdit), layer))
    perturb(fusion, scale=0.5)
    rng = torch.Generator().manual_seed(0)
    x, text = torch.randn(1, 4, 16, 16, generator=rng), torch.randn(1, 24, 32, generator=rng)
    cond = Conditioning(text=text, subject=torch.zeros(1, dtype=torch.long))
    level = backbone.process.level(torch.tensor([300]))
    with torch.no_grad(), Attachment(backbone, fusion) as net:
        tuned = net.evaluate(x, level, cond).output
        twin = copy.deepcopy(unet)
        # the twin's context is a copy too: nothing but its own chains reaches it
        chain = next(iter(twin.attn_processors.values())).chain
        assert chain.context is not net.context
        bound = twin.get_submodule(layer.site.name).forward
        assert bound.module is twin.get_submodule(layer.site.name)
        assert bound.context is chain.context
        chain.context.cond = cond
        assert torch.equal(twin(x, 300, encoder_hidden_states=text).sample, tuned)
        chain.context.off = True
        base = twin(x, 300, encoder_hidden_states=text).sample
        assert torch.equal(net.evaluate(x, level, cond).output, tuned)
        assert torch.equal(base, net.evaluate(x, level, cond, model="base").output)
