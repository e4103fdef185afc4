"""Each head's logits and values get an addend of low rank, as the released module computes them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pcs_attention.low_rank_heads import SCALE, LowRankHeads
from pcs_core.backbone import Attachment, Backbone, select_sites
from pcs_core.data import Conditioning, Fusion
from pcs_testing import build_fusion, make_recipe, make_subject

RANK = 2


def fusion_of(backbone: Backbone) -> Fusion:
    """Return the branches of all attention layers."""
    return build_fusion(make_recipe([LowRankHeads(rank=RANK)]), [make_subject()], backbone)


def by_hand(
    module: nn.Module,
    x: torch.Tensor,
    text: torch.Tensor,
    branch: dict[str, torch.Tensor],
    alpha: float,
) -> torch.Tensor:
    """Return what the authors' CrossAttentionSVD gives: their formula, a head at a time."""
    q, k, v = module.to_q(x), module.to_k(text), module.to_v(text)  # type: ignore[operator]
    heads = int(module.heads)  # type: ignore[arg-type]
    width = q.shape[-1] // heads
    plain, small_values = torch.zeros_like(q), x.new_zeros(*x.shape[:2], RANK * heads)
    for h in range(heads):
        of, small = slice(h * width, (h + 1) * width), slice(h * RANK, (h + 1) * RANK)
        less_q, less_k = alpha * x @ branch["q"][small].T, alpha * text @ branch["k"][small].T
        logits = less_q @ less_k.transpose(1, 2) + q[..., of] @ k[..., of].transpose(1, 2)
        maps = (logits * width**-0.5).softmax(-1)
        plain[..., of] = maps @ v[..., of]
        small_values[..., small] = maps @ (alpha * text @ branch["v"][small].T)
    said: torch.Tensor = module.to_out[0](plain)  # type: ignore[index, operator]
    return said + alpha * small_values @ branch["out"].T


@torch.no_grad()
@pytest.mark.parametrize("alpha", [1.0, 0.8])
@pytest.mark.parametrize("kind", ["self", "cross"])
def test_a_layer_is_the_released_module_s(backbone: Backbone, kind: str, alpha: float) -> None:
    fusion = fusion_of(backbone)
    site = select_sites(backbone.sites, kind)[-1]
    branch = {
        name: tensor.detach()[0]
        for edit in fusion.edits
        if edit.name.removesuffix(".to_out.0") == site.name
        for name, tensor in edit.owned().items()
    }
    assert sorted(branch) == ["k", "out", "q", "v"]
    module = backbone.parts["denoiser"].get_submodule(site.name)
    rng = torch.Generator().manual_seed(8)
    x = torch.randn(2, 9, site.width, generator=rng)
    text = torch.randn(2, 5, site.context, generator=rng) if kind == "cross" else x
    cond = Conditioning(
        text=text, subject=torch.zeros(2, dtype=torch.long), extra={SCALE: torch.full((2,), alpha)}
    )
    with Attachment(backbone, fusion) as net, net.under(cond=cond):
        said = module(x, encoder_hidden_states=text if kind == "cross" else None)
    torch.testing.assert_close(said, by_hand(module, x, text, branch, alpha), rtol=0, atol=1e-5)


def test_the_logits_change_by_rank_r(backbone: Backbone) -> None:
    """Not by that of the head's width, and not by less."""
    fusion = fusion_of(backbone)
    looks = next(e for e in fusion.edits if type(e).__name__ == "Looks")
    heads = looks.site.heads  # type: ignore[attr-defined]
    for q, k in zip(
        looks.q[0].unflatten(0, (heads, RANK)),  # type: ignore[index, union-attr]
        looks.k[0].unflatten(0, (heads, RANK)),  # type: ignore[index, union-attr]
        strict=True,
    ):
        assert int(torch.linalg.matrix_rank(q.T @ k)) == RANK


def test_every_layer_has_four_matrices_that_start_as_linear_layers_do(backbone: Backbone) -> None:
    fusion = fusion_of(backbone)
    sites = [s for s in backbone.sites if s.part == "denoiser" and s.kind in ("self", "cross")]
    assert len(fusion.edits) == 3 * len(sites)
    for edit in fusion.edits:
        for tensor in (t.detach() for t in edit.owned().values()):
            bound = tensor.shape[-1] ** -0.5
            assert float(tensor.abs().max()) <= bound
            assert float(tensor.std()) == pytest.approx(bound / 3**0.5, rel=0.3)
