"""Fused layers answer every concept's own inputs as well as one matrix can."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pcs_core import fit, load, merge_personalizations, recipe_from_document, sample, save
from pcs_core.backbone import Backbone
from pcs_core.errors import InputError
from pcs_testing import Snapshot, make_subject
from pcs_weights.gradient_fusion import solve
from pcs_weights.gradient_fusion_merge import deltas_of, listening

FEW: dict[str, Any] = {"method": "gradient-fusion", "iterations": 30, "spatial_iterations": 10}
TEXT = {"technique": "weights.lora", "name": "words", "part": "text", "sites": "*self_attn.q_proj"}


def fitted(backbone: Backbone, *uses: dict[str, Any]) -> list[Any]:
    recipe = recipe_from_document(
        {
            "recipe": {"id": "two"},
            "use": [{"technique": "tokens.learnable"}, *uses],
            "phase": [{"name": "p", "steps": 2, "lr": 0.05}],
            "fit": {},
            "sample": {"steps": 2, "scale": 2.0},
        }
    )
    subjects = [
        make_subject("a", token="<a>", noun="dog", seed=1),
        make_subject("b", token="<b>", noun="cat", seed=2),
    ]
    return fit(recipe, subjects, backbone)


def test_the_search_finds_the_closed_form() -> None:
    rng = torch.Generator().manual_seed(0)
    xs = [torch.randn(40, 6, generator=rng) for _ in range(2)]
    ds = [torch.randn(5, 6, generator=rng) for _ in range(2)]
    grams = [x.T @ x for x in xs]
    exact = (ds[0] @ grams[0] + ds[1] @ grams[1]) @ torch.linalg.inv(grams[0] + grams[1])
    torch.testing.assert_close(solve(grams, ds, 200), exact, rtol=1e-4, atol=1e-5)
    rough = solve(grams, ds, 2)
    assert (rough - exact).abs().max() > 1e-4


def test_inputs_that_do_not_meet_keep_both_updates() -> None:
    rng = torch.Generator().manual_seed(0)
    ds = [torch.randn(3, 4, generator=rng) for _ in range(2)]
    xs = torch.eye(4)[:2], torch.eye(4)[2:]
    found = solve([x.T @ x for x in xs], ds, 100)
    for x, d in zip(xs, ds, strict=True):
        torch.testing.assert_close(x @ found.T, x @ d.T, rtol=1e-4, atol=1e-5)


def test_a_fusion_is_an_artifact_of_both(backbone: Backbone, tmp_path: Any) -> None:
    before = Snapshot(backbone)
    artifacts = fitted(backbone, {"technique": "weights.lora"}, TEXT)
    merged = merge_personalizations(artifacts, backbone, steps=1, **FEW)
    before.assert_unchanged()
    assert [c.token for c in merged.concepts] == ["<a>", "<b>"]
    owners = {name.split("/")[0] for name in merged.tensors}
    assert owners == {"tokens.learnable", "weights.gradient_fusion"}
    layers = {name.split("/")[1] for name in merged.tensors if name.endswith("/delta")}
    assert layers == {layer for _, layer in deltas_of(artifacts[0])}
    save(merged, tmp_path / "both")
    drawn = sample(merged, backbone, "a <a> and a <b>", seed=1)
    assert torch.equal(drawn, sample(load(tmp_path / "both"), backbone, "a <a> and a <b>", seed=1))
    assert (drawn - sample(artifacts[0], backbone, "a <a> and a <b>", seed=1)).abs().max() > 1e-4


def test_what_it_would_lose_is_refused(backbone: Backbone) -> None:
    with pytest.raises(InputError, match="tensors of the use 'weights.kv'"):
        merge_personalizations(fitted(backbone, {"technique": "weights.kv"}), backbone, **FEW)
    with pytest.raises(InputError, match=r"has no weights\.lora"):
        merge_personalizations(fitted(backbone), backbone, **FEW)


def test_listening_leaves_nothing_behind(backbone: Backbone) -> None:
    before = Snapshot(backbone)
    name = next(s.name for s in backbone.sites if s.name.endswith("attn2.to_k"))
    with listening(backbone, [("denoiser", name)]) as grams:
        layer = backbone.parts["denoiser"].get_submodule(name)
        x = torch.randn(2, 3, 32)
        layer(x)
    rows = x.reshape(-1, 32).double()
    torch.testing.assert_close(grams["denoiser", name], rows.T @ rows / 6)
    before.assert_unchanged()
    assert not layer._forward_pre_hooks
