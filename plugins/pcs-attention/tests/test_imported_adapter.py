"""Projectors of released IP-Adapters are diffusers' own; what is dropped is answered as an empty picture."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers.models.embeddings import (
    IPAdapterFaceIDImageProjection,
    IPAdapterFaceIDPlusImageProjection,
    IPAdapterFullImageProjection,
)
from torch import nn

from pcs_attention.imported_adapter import Answered, FaceTokens, FullTokens, ImportedAdapter
from pcs_attention.parallel_adapter import ParallelAdapter
from pcs_core.data import Features
from pcs_core.errors import RecipeError
from pcs_testing import make_subject

CLOSE = 1e-5


def copied(theirs: nn.Module, ours: nn.Module, names: dict[str, str]) -> None:
    torch.manual_seed(0)
    parameters = dict(ours.named_parameters())
    with torch.no_grad():
        for name, value in theirs.named_parameters():
            value.copy_(torch.randn_like(value) * 0.2 + (0.8 if "norm" in name else 0.0))
            for before, after in names.items():
                name = name.replace(before, after)
            parameters.pop(name).copy_(value)
    assert not parameters


NAMES = {"ff.net.0.proj": "inward", "ff.net.2": "outward"}


def test_full_face_is_diffusers() -> None:
    theirs, ours = IPAdapterFullImageProjection(24, 32), FullTokens("image", 24, 32)
    copied(theirs, ours, NAMES)
    given = torch.randn(2, 5, 24)
    assert ours.stream(given[:, None]).shape == (2, 5, 32)
    torch.testing.assert_close(ours.stream(given[:, None]), theirs(given), atol=CLOSE, rtol=0.0)


def test_face_id_is_diffusers() -> None:
    theirs = IPAdapterFaceIDImageProjection(16, 32, mult=2, num_tokens=4)
    ours = FaceTokens("image", 16, 32, 4, 32)
    copied(theirs, ours, NAMES)
    given = torch.randn(2, 16)
    tokens = ours.stream(given[:, None])
    assert tokens.shape == (2, 4, 32)
    torch.testing.assert_close(tokens, theirs(given).reshape(2, 4, 32), atol=CLOSE, rtol=0.0)


@pytest.mark.parametrize("shortcut", [False, True])
def test_face_id_plus_is_diffusers(shortcut: bool) -> None:
    theirs = IPAdapterFaceIDPlusImageProjection(
        embed_dims=32, output_dims=32, hidden_dims=24, id_embeddings_dim=16, heads=2, dim_head=8
    )
    adapter = ImportedAdapter(
        **{"projector": "face-perceiver", "seen": 24, "inner": 32, "heads": 2, "head_width": 8},
        shortcut=shortcut,
        structure=0.6,
    )
    ours = adapter._projector(16, 32)
    layer = {"ln0": "norm_features", "ln1": "norm_queries", "attn.": "", "to_out.0": "to_out"}
    feed = {"ff.0": "feed.0", "ff.1.net.0.proj": "feed.1", "ff.1.net.2": "feed.3"}
    ends = {"proj.net.0.proj": "inward", "proj.net.2": "outward"}
    ends |= {"proj_in": "read_in", "proj_out": "read_out", "norm_out": "read_norm"}
    copied(theirs, ours, {**feed, **layer, **ends})
    vectors, shown = torch.randn(2, 16), torch.randn(2, 5, 24)
    theirs.clip_embeds, theirs.shortcut, theirs.shortcut_scale = shown[:, None], shortcut, 0.6
    tokens = ours.stream(vectors[:, None], shown[:, None])
    assert tokens.shape == (2, 4, 32)
    torch.testing.assert_close(tokens, theirs(vectors), atol=CLOSE, rtol=0.0)


def test_face_id_plus_refuses_another_encoder() -> None:
    adapter = ImportedAdapter(projector="face-perceiver", seen=24)
    features = Features(tensors={"image.seen": torch.zeros(1, 1, 5, 20)})
    with pytest.raises(
        RecipeError, match="24 channels, and the encoder of feature 'image.seen' gives 20"
    ):
        adapter._check(features)


def test_a_dropped_row_reads_the_empty_picture_and_no_other_does() -> None:
    inner, empty = FullTokens("image", 24, 32), torch.randn(5, 24)
    ours = Answered(inner, empty)
    shown = torch.randn(1, 1, 5, 24)
    given = torch.cat([shown, torch.zeros_like(shown)])
    tokens = ours.stream(given)
    torch.testing.assert_close(tokens[:1], inner.stream(shown))
    torch.testing.assert_close(tokens[1:], inner.stream(empty[None, None]))
    assert (tokens[1:] - inner.stream(torch.zeros_like(shown))).abs().max() > 1e-3


class Normalized:
    """An encoder whose patches are the pictures themselves, as CLIP's preprocessing gives them."""

    size = 8

    def patches(self, images: torch.Tensor) -> torch.Tensor:
        mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(1, 3, 1, 1)
        return (images - mean).flatten(2).transpose(1, 2)


def test_the_empty_picture_is_zero_to_clip() -> None:
    """diffusers' ``encode_image`` shows the network zeros, behind the preprocessing."""
    adapter = ImportedAdapter(empty="clip", tokens=2)
    run: Any = SimpleNamespace(feature_model=lambda id: Normalized(), device="cpu")
    features = adapter.extract(run=run, subject=make_subject(), moment="start")
    assert features is not None
    (name,) = features.keep
    assert name == f"{adapter.key}.empty"
    assert features.tensors[name].shape == (64, 3)
    assert float(features.tensors[name].abs().max()) < 1e-6
    assert adapter.extract(run=run, subject=make_subject(), moment="border") is None
    assert (
        ImportedAdapter(tokens=2).extract(run=run, subject=make_subject(), moment="start") is None
    )


@pytest.mark.parametrize(
    ("projector", "kind"), [("full", FullTokens), ("face", FaceTokens), ("linear", None)]
)
def test_each_projector_is_the_one_of_its_name(projector: str, kind: type | None) -> None:
    made = ImportedAdapter(projector=projector, tokens=2, inner=16)._projector(24, 32)
    if kind is None:
        assert type(made) is type(ParallelAdapter(projector="linear", tokens=2)._projector(24, 32))
    else:
        assert type(made) is kind
