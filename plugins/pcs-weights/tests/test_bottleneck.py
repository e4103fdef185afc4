"""Bottleneck adapters: a no-op at the start, then a small module on the layer's output."""

from __future__ import annotations

import pytest
import torch

from pcs_core import fit
from pcs_core.backbone import Backbone
from pcs_core.data import Conditioning, Phase, WeightEdit
from pcs_core.errors import RecipeError
from pcs_testing import build_fusion, evaluate, make_recipe, make_subject, perturb
from pcs_weights.bottleneck import Bottleneck, BottleneckAdapter


def test_a_fresh_adapter_is_the_base_bit_for_bit(backbone: Backbone) -> None:
    fusion = build_fusion(make_recipe([BottleneckAdapter()]), [make_subject()], backbone)
    assert torch.equal(evaluate(backbone), evaluate(backbone, fusion))
    assert all(e.up.abs().max() == 0 and e.down.abs().max() > 0 for e in fusion.of(WeightEdit))


def test_it_adapts_the_output_of_the_layer(backbone: Backbone) -> None:
    recipe = make_recipe([BottleneckAdapter(hidden=3, sites="*.attn2.to_out.0", strength=0.5)])
    fusion = build_fusion(recipe, [make_subject()], backbone)
    perturb(fusion)
    edit = fusion.of(WeightEdit)[0]
    y = torch.randn(2, 5, edit.site.shape[0])
    expected = 0.5 * torch.nn.functional.gelu(y @ edit.down[0].T) @ edit.up[0].T
    torch.testing.assert_close(edit.residual(torch.zeros(2, 5, 7), y, None), expected)
    image_like = y.view(2, 5, 1, -1)
    torch.testing.assert_close(edit.residual(y, image_like, None), expected.view(2, 5, 1, -1))


def test_only_attention_and_feed_forward_outputs_by_default(backbone: Backbone) -> None:
    artifact = fit(make_recipe([BottleneckAdapter()], Phase("p", 1)), make_subject(), backbone)[0]
    layers = {name.split("/")[1] for name in artifact.tensors}
    assert layers
    assert all(layer.endswith(("to_out.0", "ff.net.2")) for layer in layers)


def test_sites_that_match_nothing_are_refused(backbone: Backbone) -> None:
    with pytest.raises(RecipeError, match="no linear layer of part 'denoiser' matches"):
        build_fusion(make_recipe([BottleneckAdapter(sites="*.nope")]), [make_subject()], backbone)


@pytest.mark.parametrize("shape", [(2, 8), (2, 5, 8), (2, 3, 4, 8)])
def test_each_place_is_adapted_by_its_row_s_subject(
    backbone: Backbone, shape: tuple[int, ...]
) -> None:
    rng = torch.Generator().manual_seed(0)
    site = (
        build_fusion(make_recipe([BottleneckAdapter()]), [make_subject()], backbone)
        .of(Bottleneck)[0]
        .site
    )
    edit = Bottleneck(site, torch.randn(2, 3, 8, generator=rng), 0.5, "relu")
    with torch.no_grad():
        edit.up.normal_(generator=rng)
    y = torch.randn(shape, generator=rng)
    cond = Conditioning(text=torch.zeros(2, 1, 1), subject=torch.tensor([1, 0]))
    expected = torch.stack(
        [
            0.5 * torch.relu(row @ edit.down[k].T) @ edit.up[k].T
            for row, k in zip(y, (1, 0), strict=True)
        ]
    )
    torch.testing.assert_close(edit.residual(y, y, cond), expected)


def test_the_down_projection_starts_at_unit_gain(backbone: Backbone) -> None:
    fusion = build_fusion(make_recipe([BottleneckAdapter(hidden=64)]), [make_subject()], backbone)
    for edit in fusion.of(Bottleneck):
        assert float(edit.down.std()) == pytest.approx(edit.down.shape[-1] ** -0.5, rel=0.1)
