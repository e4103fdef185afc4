"""Updates in LyCORIS' forms: what they make of a weight is what LyCORIS' own functions make of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pcs_core.data import WeightEdit
from pcs_core.errors import RecipeError
from pcs_testing import build_fusion, evaluate, make_recipe, make_subject, perturb
from pcs_weights.imported import AddedBias, Imported
from pcs_weights.imported_deltas import delta_of, shapes_of
from pcs_weights.imported_weight import ImportedWeight

SITE = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
LAYERS = {"linear": (6, 8), "conv": (6, 8, 3, 3)}


def drawn(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=rng) for name, shape in shapes.items()}


@pytest.mark.parametrize("tucker", [False, True])
@pytest.mark.parametrize("kind", LAYERS)
def test_deltas_are_those_of_lycoris(kind: str, tucker: bool) -> None:
    functional = pytest.importorskip("lycoris.functional", reason="make setup installs it")
    if tucker and kind == "linear":
        pytest.skip("a linear layer has no core")
    layer = LAYERS[kind]
    loha = drawn(shapes_of("loha", layer, 2, tucker=tucker))
    names = ("hada_w1_b", "hada_w1_a", "hada_w2_b", "hada_w2_a", "hada_t1", "hada_t2")
    parts = [loha.get(name) for name in names]
    theirs = functional.loha.diff_weight(*parts, gamma=torch.tensor(1.0)).reshape(layer)
    torch.testing.assert_close(delta_of(loha, layer), theirs)
    for factored in ("", "first", "second", "both"):
        shapes = shapes_of("lokr", layer, 2, tucker=tucker, first=(2, 4), factored=factored)
        lokr = drawn(shapes)
        names = ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")
        given: Any = [lokr.get(f"lokr_{name}") for name in names]
        if kind == "conv" and given[5] is not None and not tucker:
            given[5] = given[5].reshape(2, 2, 3, 3)
        factors = [lokr[name] for name in ("lokr_w1_a", "lokr_w2_a") if name in lokr]
        rank = float(factors[0].shape[1]) if factors else 1.0  # they divide by it
        theirs = functional.lokr.diff_weight(*given, gamma=rank).reshape(layer)
        torch.testing.assert_close(delta_of(lokr, layer), theirs)


def test_a_strength_scales_what_is_added(backbone: Any) -> None:
    fusion = build_fusion(
        make_recipe([Imported(kind="full", bias=True, sites="*.to_out.0")]),
        [make_subject()],
        backbone,
    )
    perturb(fusion, scale=0.1)
    whole, plain = evaluate(backbone, fusion), evaluate(backbone)
    half = {"strength": 0.0, "strength_bias": 0.0}
    for edit in fusion.of(WeightEdit):
        for name, value in half.items():
            if hasattr(edit, name):
                getattr(edit, name).fill_(value)
    assert (whole - plain).abs().max() > 1e-2
    assert torch.equal(evaluate(backbone, fusion), plain)
    assert any(isinstance(edit, AddedBias) for edit in fusion.of(WeightEdit))


@pytest.mark.parametrize("magnitude", ["rows", "columns", "peft"])
def test_lengths_that_are_the_weight_s_own_change_nothing(magnitude: str, backbone: Any) -> None:
    use = ImportedWeight(magnitude=magnitude, sites=SITE)  # type: ignore[arg-type]
    fusion = build_fusion(make_recipe([use]), [make_subject()], backbone)
    torch.testing.assert_close(evaluate(backbone, fusion), evaluate(backbone), atol=1e-5, rtol=0.0)
    (edit,) = fusion.of(WeightEdit)
    with torch.no_grad():
        edit.magnitude.mul_(3.0)  # type: ignore[operator,union-attr]
    assert (evaluate(backbone, fusion) - evaluate(backbone)).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("technique", "words"),
    [
        (Imported(kind="lokr", first=(5, 1), sites=SITE), "does not divide"),
        (ImportedWeight(kind="oft", rank=5, sites=SITE), "do not divide"),
        (Imported(sites="nothing.*"), "no linear layer"),
    ],
)
def test_what_does_not_fit_is_refused(technique: Any, words: str, backbone: Any) -> None:
    with pytest.raises(RecipeError, match=words):
        build_fusion(make_recipe([technique]), [make_subject()], backbone)
