"""A feature stands at its own concept's words, and nowhere else, fused as the released code does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pcs_core.backbone import Backbone
from pcs_core.catalogue import catalogue
from pcs_core.data import Conditioning
from pcs_fusion.token_output import FORMS, FusedWords, TokenOutput, Widths, positions
from pcs_testing import build_fusion, make_recipe, make_subject


def edit(form: str = "single", start: float = 0.0, last: bool = False) -> FusedWords:
    torch.manual_seed(0)
    made = FORMS[form]("image", "image.feature", "image.words", start, last, widths=Widths(6, 4, 8))
    for param in made.parameters():
        nn.init.normal_(param, std=0.5)
    return made


def cond(features: torch.Tensor, strength: float = 1.0) -> Conditioning:
    spans = {"concept.0": torch.tensor([[1, -1]]), "concept.1": torch.tensor([[3, 4]])}
    return Conditioning(
        text=torch.zeros(1, 7),
        streams={"image.feature": features},
        spans=spans,
        extra={"image.words": torch.tensor([strength])},
    )


TEXT = torch.randn(1, 7, 6, generator=torch.Generator().manual_seed(1))
BOTH = torch.randn(1, 2, 4, generator=torch.Generator().manual_seed(2))
FORM = pytest.mark.parametrize("form", FORMS)


def moved(made: FusedWords, features: torch.Tensor, strength: float = 1.0) -> list[int]:
    out = made.output(TEXT, torch.tensor([[-1]]), cond(features, strength))
    return [i for i in range(7) if not torch.equal(out[0, i], TEXT[0, i])]


@FORM
def test_only_the_words_of_the_concepts_change(form: str) -> None:
    assert moved(edit(form), BOTH) == [1, 3, 4]


@FORM
def test_of_several_tokens_the_last_one_is_fused_where_the_recipe_says_so(form: str) -> None:
    """The released code marks the end of a noun phrase, and fuses there alone."""
    assert moved(edit(form, last=True), BOTH) == [1, 4]
    twice = torch.tensor([[1, 2, 5, 6]])
    assert positions(twice, 8, last=True).nonzero()[:, 1].tolist() == [2, 6]


@FORM
def test_a_slot_without_a_reference_stays_text(form: str) -> None:
    first_only = BOTH * torch.tensor([1.0, 0.0]).view(1, 2, 1)
    assert moved(edit(form), first_only) == [1]
    assert moved(edit(form), torch.zeros_like(BOTH)) == []


@FORM
def test_strength_zero_is_text(form: str) -> None:
    assert moved(edit(form), BOTH, 0.0) == []


def test_the_released_fusion_has_two_mlps_a_residual_of_text_and_a_norm() -> None:
    """LayerNorm(y + MLP2(y)) with y = text + MLP1([text; feature]), from the weights alone."""
    made = edit("postfuse")
    weights = dict(made.named_parameters())

    def mlp(x: torch.Tensor, name: str) -> torch.Tensor:
        x = F.layer_norm(x, x.shape, weights[f"{name}.0.weight"], weights[f"{name}.0.bias"])
        x = F.gelu(F.linear(x, weights[f"{name}.1.weight"], weights[f"{name}.1.bias"]))
        return F.linear(x, weights[f"{name}.3.weight"], weights[f"{name}.3.bias"])

    actual = made.output(TEXT, torch.tensor([[-1]]), cond(BOTH))
    for at, slot in ((1, 0), (3, 1), (4, 1)):
        text = TEXT[0, at]
        joined = text + mlp(torch.cat([text, BOTH[0, slot]]), "read")
        whole = joined + mlp(joined, "refine")
        expected = F.layer_norm(whole, whole.shape, weights["after.weight"], weights["after.bias"])
        torch.testing.assert_close(actual[0, at], expected, atol=1e-5, rtol=1e-5)


def test_the_single_fusion_starts_at_nothing() -> None:
    widths = Widths(6, 4, 8)
    fresh = FORMS["single"]("image", "image.feature", "image.words", 0.0, False, widths=widths)
    assert torch.equal(fresh.output(TEXT, torch.tensor([[-1]]), cond(BOTH)), TEXT)


def test_the_published_form_is_the_default_and_the_earlier_one_is_what_old_artifacts_mean() -> None:
    assert TokenOutput().form == "postfuse"
    assert TokenOutput.absent == {"form": "single"}


@pytest.mark.parametrize(("at", "last"), [("all", False), ("last", True)])
def test_the_setting_says_which_tokens_of_a_word_are_fused(
    backbone: Backbone, at: Any, last: bool
) -> None:
    techniques = catalogue()
    encoder = techniques.get("techniques", "encoders.image").from_settings({"model": "tiny.image"})
    recipe = make_recipe([encoder, TokenOutput(at=at, hidden=8)])
    (edit,) = build_fusion(recipe, [make_subject()], backbone).of(FusedWords)
    assert edit.last is last
