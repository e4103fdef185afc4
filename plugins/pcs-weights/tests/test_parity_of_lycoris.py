"""LoHa and LoKr change the network as LyCORIS' values modules do, with the same factors."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pcs_core import open_backbone
from pcs_core.backbone import trainable
from pcs_testing import build_fusion, evaluate, make_recipe, make_subject, perturb
from pcs_weights.parameterised import Peft

SITES = "mid_block.attentions.0.transformer_blocks.0.attn*.to_*|*.to_out.0"
RANK, ALPHA = 2, 3.0


def lycoris_modules(kind: str) -> Any:
    loaded = pytest.importorskip(f"lycoris.modules.{kind}", reason="make setup installs it")
    return loaded.LohaModule if kind == "loha" else loaded.LokrModule


@pytest.mark.parametrize("kind", ["loha", "lokr"])
def test_of_lycoris(kind: str) -> None:
    make = lycoris_modules(kind)
    backbone: Any = open_backbone("tiny")
    use = Peft(kind=kind, rank=RANK, alpha=ALPHA, sites=SITES)
    fusion = build_fusion(make_recipe([use]), [make_subject()], backbone)
    perturb(fusion, scale=0.5)
    tuned, plain = evaluate(backbone, fusion), evaluate(backbone)
    factors: dict[str, dict[str, Any]] = {}
    for name, param in trainable(fusion).items():
        _, _, site, factor = name.split("/")
        factors.setdefault(site, {})[factor] = param.detach()
    assert len(factors) > 8
    for site, values in factors.items():
        layer = backbone.denoiser.get_submodule(site)
        theirs = make("x", layer, lora_dim=RANK, alpha=ALPHA)
        assert {n for n, _ in theirs.named_parameters()} == set(values)
        with torch.no_grad():
            for factor, value in values.items():
                getattr(theirs, factor).copy_(value)
            layer.weight.add_(theirs.get_weight(layer.weight.shape))
    torch.testing.assert_close(evaluate(backbone), tuned, rtol=0.0, atol=1e-5)
    assert (tuned - plain).abs().max() > 1e-2
