"""Updates in LyCORIS' forms: what they make of a weight is what LyCORIS' own functions make of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from pcs_core.data import Site, WeightEdit
from pcs_core.errors import RecipeError
from pcs_testing import build_fusion, evaluate, make_recipe, make_subject, perturb
from pcs_weights.imported import AddedBias, AddedUpdate, Imported
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


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (1, 1, 0), (5, 1, 2)]
)
def test_a_convolution_s_update_is_the_convolution_with_the_changed_weight(
    kernel: int, stride: int, padding: int
) -> None:
    weight, change = torch.randn(2, 6, 8, kernel, kernel)
    edit = AddedUpdate(
        Site("layer", "denoiser", "conv", 1, shape=tuple(weight.shape)), {"diff": change}
    )
    edit.scale.fill_(0.5)
    edit.strength.fill_(3.0)
    x = torch.randn(2, 8, 9, 11)  # no square, and no multiple of the stride
    y = F.conv2d(x, weight, stride=stride, padding=padding)
    expected = F.conv2d(x, weight + 1.5 * change, stride=stride, padding=padding)
    with torch.no_grad():
        actual = y + edit.residual(x, y, None)
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0.0)


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((2, 6, 4, 5), 1),
        ((2, 6, 6, 6), 1),
        ((2, 9, 6), 2),
        ((2, 6, 9), 1),
        ((2, 6, 6), 2),
        ((2, 6), 1),
    ],
)
def test_a_bias_is_added_along_the_channels(shape: tuple[int, ...], axis: int) -> None:
    edit = AddedBias(Site("layer", "denoiser", "norm", 1, shape=(6,)))
    torch.nn.init.normal_(edit.bias)
    edit.strength_bias.fill_(0.5)
    with torch.no_grad():
        added = edit.residual(torch.zeros(shape), torch.zeros(shape), None)
    assert added.shape == shape
    for line in added.movedim(axis, -1).reshape(-1, 6):
        torch.testing.assert_close(line, 0.5 * edit.bias.detach())


def test_factors_start_as_no_change_and_with_unit_outputs(backbone: Any) -> None:
    use = Imported(kind="lora", rank=64, sites=SITE)
    (edit,) = build_fusion(make_recipe([use]), [make_subject()], backbone).of(WeightEdit)
    tensors = edit.tensors()  # type: ignore[attr-defined]
    down, up = tensors["down"], tensors["up"]
    assert not up.any()
    assert float(down.detach().std()) * down.shape[1] ** 0.5 == pytest.approx(1.0, abs=0.1)


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
