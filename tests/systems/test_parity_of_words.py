"""Learned words against other implementations: diffusers' loader, and the formulas of P+ and NeTI."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file

from pcs_core import open_backbone
from pcs_core.backbone import Attachment, Backbone, select_sites, tokenise
from pcs_core.data import TokenEdit
from pcs_testing import build_fusion, make_recipe, make_subject
from pcs_tokens.layerwise import LayerwiseToken
from pcs_tokens.learnable import LearnableToken
from pcs_tokens.mapper_network import Mapper


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return open_backbone("tiny")


PROMPTS = ["a photo of a <fido> on the beach", "<fido>"]


def ours(backbone: Backbone, technique: Any, rows: torch.Tensor) -> torch.Tensor:
    """Return the text [b l d] (or [b layers l d]) that ``rows`` give in place of the token."""
    fusion = build_fusion(make_recipe([technique]), [make_subject()], backbone)
    (edit,) = fusion.of(TokenEdit)
    with torch.no_grad():
        edit.rows.copy_(rows)
    prompts = tokenise(PROMPTS, backbone.tokenizer, tokens=[edit])
    with torch.no_grad(), Attachment(backbone, fusion) as net:
        cond = net.encode_text(prompts, torch.zeros(len(PROMPTS), dtype=torch.long))
    return cond.text if cond.layered is None else cond.layered


def theirs(backbone: Any, rows: torch.Tensor, path: Path) -> torch.Tensor:
    """Return the text [b l d] of diffusers' pipeline after ``load_textual_inversion`` of ``rows`` [n d]."""
    pipe = StableDiffusionPipeline(
        vae=None,
        text_encoder=copy.deepcopy(backbone.parts["text"]),
        tokenizer=copy.deepcopy(backbone.tokenizer.inner),
        unet=None,
        scheduler=None,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    save_file({"<fido>": rows}, path)
    pipe.load_textual_inversion(str(path), token="<fido>")
    positive, _ = pipe.encode_prompt(PROMPTS, "cpu", 1, do_classifier_free_guidance=False)
    return positive.detach()


@pytest.mark.parametrize("vectors", [1, 3])
def test_a_file_of_textual_inversion_says_the_same(
    backbone: Backbone, tmp_path: Path, vectors: int
) -> None:
    rows = torch.randn(vectors, 32, generator=torch.Generator().manual_seed(vectors))
    actual = ours(backbone, LearnableToken(vectors=vectors), rows[None])
    expected = theirs(backbone, rows, tmp_path / "learned.safetensors")
    torch.testing.assert_close(actual, expected, rtol=0.0, atol=1e-5)
    assert (
        actual - ours(backbone, LearnableToken(vectors=vectors), 2 * rows[None])
    ).abs().max() > 0.1


def test_each_layer_of_p_plus_reads_a_textual_inversion_of_its_own(
    backbone: Backbone, tmp_path: Path
) -> None:
    """P+, section 3.2: the text of layer l is the encoding of the prompt with the word of layer l."""
    layers = len(select_sites(backbone.sites, "cross"))
    rows = torch.randn(layers, 1, 32, generator=torch.Generator().manual_seed(0))
    actual = ours(backbone, LayerwiseToken(), rows[None, None])
    for layer in range(layers):
        expected = theirs(backbone, rows[layer], tmp_path / f"{layer}.safetensors")
        torch.testing.assert_close(actual[:, layer], expected, rtol=0.0, atol=1e-5)


def test_the_mapper_of_neti_is_the_published_network() -> None:
    """Section 4 and `neti_mapper.py`: sin and cos of length 1, anchors, two hidden layers with norms."""
    sizes: dict[str, Any] = {"layers": 3, "width": 5, "bypass": 4, "anchors": 2, "hidden": 6}
    rng = torch.Generator().manual_seed(0)
    mapper = Mapper([rng], frequencies=7, sigmas=(0.03, 2.0), dropout=0.0, **sizes).eval()
    with torch.no_grad():
        for name, param in mapper.named_parameters():
            if name != "anchors":
                param.add_(0.3 * torch.randn(param.shape, generator=rng))
    step, layer = 340, 2
    word, bypass = mapper(
        torch.tensor([step / 1000]),
        torch.tensor([layer]),
        torch.zeros(1, dtype=torch.long),
    )
    assert bypass is not None
    weights = {name: value[0].detach() for name, value in mapper.named_parameters()}
    turns = [float(w[0] * step + w[1] * layer) for w in mapper.frequencies[0]]
    encoded = torch.tensor([*map(math.sin, turns), *map(math.cos, turns)])
    x = weights["anchors"] @ (encoded / encoded.norm())
    for part in ("first", "second"):
        x = weights[f"{part}.weight"] @ x + weights[f"{part}.bias"]
        x = (x - x.mean()) / (x.var(unbiased=False) + 1e-5).sqrt()
        x = x * weights[f"{part}_norm.scale"] + weights[f"{part}_norm.shift"]
        x = torch.where(x > 0, x, 0.01 * x)
    for actual, head in ((word, "head"), (bypass, "bypass")):
        expected = weights[f"{head}.weight"] @ x + weights[f"{head}.bias"]
        torch.testing.assert_close(actual[0, 0].detach(), expected, rtol=0.0, atol=1e-5)
