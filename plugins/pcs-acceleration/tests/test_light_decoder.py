"""The light decoder makes the pictures, and the denoiser is asked the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pcs_acceleration.light_decoder import LightDecoder
from pcs_core import fit, open_backbone
from pcs_core.errors import CapabilityError, ConflictError
from pcs_testing import build_fusion, make_recipe, make_subject


def test_it_decodes_in_place_of_the_autoencoder(draw: Any, asked: Any, backbone: Any) -> None:
    plain, rows = draw(), asked.rows[:]
    decoded: list[int] = []
    original = backbone.decode
    backbone.decode = lambda latents: decoded.append(len(latents)) or original(latents)
    try:
        light = draw(LightDecoder())
        assert decoded == []
        assert torch.equal(draw(LightDecoder(on=False)), plain)
        assert decoded == [1]
    finally:
        del backbone.decode
    assert asked.rows == rows
    assert light.shape == plain.shape
    assert (light - plain).abs().max() > 1e-2


def test_the_subject_stays_alive(draw: Any) -> None:
    assert (
        draw(LightDecoder(), learned=0.3) - draw(LightDecoder(), learned=0.9)
    ).abs().max() > 1e-4


def test_where_there_is_none_it_is_refused() -> None:
    tokens = open_backbone("tiny-tokens")
    with pytest.raises(CapabilityError, match="'tiny-tokens' comes with no light decoder"):
        build_fusion(make_recipe([LightDecoder()]), [make_subject()], tokens)


def test_two_decoders_conflict(backbone: Any) -> None:
    both = make_recipe({"one": LightDecoder(), "two": LightDecoder()})
    with pytest.raises(ConflictError, match="decoder is claimed by both 'one' and 'two'"):
        fit(both, make_subject(), backbone)
