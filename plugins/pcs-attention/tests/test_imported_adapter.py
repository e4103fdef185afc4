"""Projectors of released IP-Adapters are diffusers' own; what is dropped is answered as an empty picture."""

from __future__ import annotations

import torch
from diffusers.models.embeddings import (
    IPAdapterFaceIDImageProjection,
    IPAdapterFullImageProjection,
)
from torch import nn

from pcs_attention.imported_adapter import Answered, FaceTokens, FullTokens

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


def test_a_dropped_row_reads_the_empty_picture_and_no_other_does() -> None:
    inner, empty = FullTokens("image", 24, 32), torch.randn(5, 24)
    ours = Answered(inner, empty)
    shown = torch.randn(1, 1, 5, 24)
    given = torch.cat([shown, torch.zeros_like(shown)])
    tokens = ours.stream(given)
    torch.testing.assert_close(tokens[:1], inner.stream(shown))
    torch.testing.assert_close(tokens[1:], inner.stream(empty[None, None]))
    assert (tokens[1:] - inner.stream(torch.zeros_like(shown))).abs().max() > 1e-3
