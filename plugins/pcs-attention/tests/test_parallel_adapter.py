"""Attention to image tokens adds to the text's, in proportion to its strength."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pcs_attention.parallel_adapter import LinearTokens, ParallelAdapter, Resampler
from pcs_core.backbone import Attachment, Backbone
from pcs_core.data import AttnEdit
from pcs_core.errors import RecipeError
from pcs_testing import build_fusion, make_recipe, make_subject


def test_a_missing_feature_is_named(backbone: Backbone) -> None:
    with pytest.raises(RecipeError, match=r"reads the feature 'image', which no technique"):
        build_fusion(make_recipe([ParallelAdapter()]), [make_subject()], backbone)


def test_tokens_have_the_width_of_the_text() -> None:
    features = torch.randn(2, 3, 5)
    assert LinearTokens("image", 5, 8, 4).stream(features).shape == (2, 12, 8)
    assert Resampler("image", 5, 8, 6, 1, 2).stream(features).shape == (2, 6, 8)
    patches = torch.randn(2, 1, 7, 5)
    assert Resampler("image", 5, 8, 6, 1, 2).stream(patches).shape == (2, 6, 8)


@pytest.mark.parametrize("projector", ["linear", "perceiver", "resampler"])
def test_every_projector_gives_its_tokens(backbone: Backbone, projector: Any) -> None:
    from pcs_core.catalogue import catalogue

    encoder = catalogue().get("techniques", "encoders.image").from_settings({"model": "tiny.image"})
    adapter = ParallelAdapter(
        projector=projector, tokens=3, depth=1, heads=4, inner=16, head_width=4
    )
    fusion = build_fusion(make_recipe([encoder, adapter]), [make_subject()], backbone)
    with Attachment(backbone, fusion) as net:
        assert net.streams({"image": torch.randn(1, 1, 24)})["image"].shape == (1, 3, 32)


def test_heads_that_do_not_divide_the_width_are_refused(backbone: Backbone) -> None:
    from pcs_core.catalogue import catalogue

    encoder = catalogue().get("techniques", "encoders.image").from_settings({"model": "tiny.image"})
    adapter = ParallelAdapter(projector="resampler", heads=5)
    with pytest.raises(RecipeError, match="5 heads do not divide the text's width 32"):
        build_fusion(make_recipe([encoder, adapter]), [make_subject()], backbone)


def test_a_dropped_stream_reads_zeros(backbone: Backbone) -> None:
    from pcs_core.catalogue import catalogue

    encoder = catalogue().get("techniques", "encoders.image").from_settings({"model": "tiny.image"})
    fusion = build_fusion(make_recipe([encoder, ParallelAdapter()]), [make_subject()], backbone)
    with Attachment(backbone, fusion) as net:
        features = {"image": torch.randn(1, 1, 24)}
        kept, dropped = net.streams(features)["image"], net.streams(features, ("*",))["image"]
        nothing = net.streams({"image": torch.zeros(1, 1, 24)})["image"]
    assert torch.equal(dropped, nothing)
    assert not torch.equal(kept, dropped)


@pytest.mark.parametrize("start", ["text", "zero"])
def test_an_adapter_that_starts_at_zero_changes_nothing_until_it_trains(
    backbone: Backbone, start: str
) -> None:
    from pcs_core.catalogue import catalogue

    encoder = catalogue().get("techniques", "encoders.image").from_settings({"model": "tiny.image"})
    adapter = ParallelAdapter.from_settings({"start": start})
    fusion = build_fusion(make_recipe([encoder, adapter]), [make_subject()], backbone)
    for edit in fusion.of(AttnEdit):
        assert edit.to_k.weight.any()
        assert bool(edit.to_v.weight.any()) == (start == "text")
