"""Spectral shifts against the definition: directions stay, values move and stay positive."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pcs_core import open_backbone
from pcs_core.backbone import Backbone, trainable
from pcs_core.data import Fusion, WeightEdit
from pcs_core.errors import CapabilityError, ConflictError
from pcs_testing import build_fusion, evaluate, make_recipe, make_subject, perturb
from pcs_weights.kv import KVDelta
from pcs_weights.parameterised import Peft
from pcs_weights.svd import SpectralShifts, matrix


def fusion_of(backbone: Backbone, **settings: Any) -> Fusion:
    return build_fusion(make_recipe([SpectralShifts(**settings)]), [make_subject()], backbone)


@pytest.mark.parametrize("kind", ["linear", "conv", "norm"])
def test_directions_stay_and_values_are_not_negative(backbone: Backbone, kind: Any) -> None:
    fusion = fusion_of(backbone, kinds=(kind,), sites="mid_block*|conv_in|conv_norm_out")
    perturb(fusion, scale=0.3)
    assert fusion.of(WeightEdit)
    for edit in fusion.of(WeightEdit):
        base = backbone.parts["denoiser"].get_submodule(edit.name).weight.detach()
        moved = matrix(edit.weight(base).detach())
        left, values, right = torch.linalg.svd(matrix(base), full_matrices=False)
        inner = left.T @ moved @ right.T
        off = inner - inner.diagonal().diag()
        assert edit.shift.shape == values.shape == (min(matrix(base).shape),)
        torch.testing.assert_close(off, torch.zeros_like(off), rtol=0, atol=2e-5)
        expected = (values + edit.shift.detach()).relu()
        torch.testing.assert_close(inner.diagonal(), expected, rtol=1e-4, atol=2e-5)


def test_a_large_negative_shift_stops_at_zero(backbone: Backbone) -> None:
    fusion = fusion_of(backbone, sites="conv_in")
    (edit,) = fusion.of(WeightEdit)
    with torch.no_grad():
        edit.shift.fill_(-1e3)
    base = backbone.parts["denoiser"].get_submodule("conv_in").weight.detach()
    assert edit.weight(base).abs().max() < 1e-6


@pytest.mark.parametrize("kind", ["linear", "conv", "norm"])
def test_the_network_computes_with_it(backbone: Backbone, kind: Any) -> None:
    fusion = fusion_of(backbone, kinds=(kind,))
    plain = evaluate(backbone)
    assert torch.equal(evaluate(backbone, fusion), plain)
    perturb(fusion, scale=0.2)
    ours = evaluate(backbone, fusion)
    assert (ours - plain).abs().max() > 1e-3
    unet = backbone.parts["denoiser"]
    kept = {e.name: unet.get_submodule(e.name).weight.data for e in fusion.of(WeightEdit)}
    for edit in fusion.of(WeightEdit):
        unet.get_submodule(edit.name).weight.data = edit.weight(kept[edit.name]).detach()
    merged = evaluate(backbone)
    for name, weight in kept.items():
        unet.get_submodule(name).weight.data = weight
    torch.testing.assert_close(ours, merged, rtol=1e-5, atol=1e-6)


def test_both_parts_and_names(backbone: Backbone) -> None:
    fusion = fusion_of(backbone, parts=("denoiser", "text"), sites="*norm*", kinds=("norm",))
    assert {e.site.part for e in fusion.of(WeightEdit)} == {"denoiser", "text"}
    assert all(name.endswith("/shift") for name in trainable(fusion))
    assert len(trainable(fusion)) == len(fusion.of(WeightEdit))


def test_half_precision_stays_half(backbone: Backbone) -> None:
    half: Any = open_backbone("tiny")
    half.denoiser.to(torch.bfloat16)
    half.dtype = torch.bfloat16
    fusion = fusion_of(half, sites="mid_block*")
    perturb(fusion)
    assert {p.dtype for p in trainable(fusion).values()} == {torch.float32}
    assert evaluate(half, fusion).dtype == torch.bfloat16


def test_what_does_not_fit_is_refused(backbone: Backbone) -> None:
    with pytest.raises(CapabilityError, match="no layer of kind"):
        fusion_of(backbone, sites="nothing")
    uses = {"one": SpectralShifts(sites="*.to_v"), "two": Peft(kind="lora", sites="*.to_v")}
    with pytest.raises(ConflictError, match="'one' and 'two' both claim the weight"):
        build_fusion(make_recipe(uses), [make_subject()], backbone)
    build_fusion(make_recipe([SpectralShifts(), KVDelta()]), [make_subject()], backbone)
