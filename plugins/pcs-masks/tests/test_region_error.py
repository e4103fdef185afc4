"""The error of a region under its own text: where it counts, what the network is told, what it moves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from pcs_core import Technique, fit, hookimpl
from pcs_core.backbone import Backbone
from pcs_core.data import Phase, Subject
from pcs_masks.region_error import RegionError
from pcs_testing import make_recipe, make_subject
from pcs_tokens.learnable import LearnableToken
from pcs_tokens.per_reference import ReferenceWords

SEEN: list[Any] = []


class Spy(Technique):
    id = "test.spy"

    @hookimpl
    def regularize(self, step: Any) -> None:
        SEEN.append(step)


def masked(images: int = 2, *, empty: bool = False) -> Subject:
    left = torch.zeros(1, 32, 32)
    left[..., :16] = 1.0
    return replace(make_subject(images=images), masks={} if empty else {"fido": (left,) * images})


def region(backbone: Backbone, subject: Subject, **settings: Any) -> tuple[Any, float]:
    """Return the step, and the value of the term in it."""
    SEEN.clear()
    uses = [Spy(), LearnableToken(noise=0.3), RegionError(**settings)]
    phase = Phase("p", 1, batch={"subject": 2}, lr={"*": 1e-9}, losses=("region", "core.denoise"))
    (artifact,) = fit(make_recipe(uses, phase), subject, backbone)
    return SEEN[0], artifact.losses["region"]


def mean(error: torch.Tensor, weight: torch.Tensor, *, normalise: bool = True) -> float:
    total = (error * weight).mean((1, 2, 3))
    return float((total / weight.mean((1, 2, 3)) if normalise else total).mean())


@pytest.mark.parametrize(
    ("settings", "left", "right"),
    [
        ({}, 1.0, 0.0),
        ({"region": "outside"}, 0.0, 1.0),
        ({"region": "all"}, 1.0, 1.0),
        ({"normalise": False}, 1.0, 0.0),
        ({"grow": 1.0}, 1.0, 1.0),
        ({"grow": 1.0, "softness": 0.75}, 1.0, 0.25),
    ],
)
def test_where_the_error_counts(
    backbone: Backbone, settings: dict[str, Any], left: float, right: float
) -> None:
    step, value = region(backbone, masked(), **settings)
    error = step.error.detach()
    weight = torch.full_like(error[:, :1], right)
    weight[..., : weight.shape[-1] // 2] = left
    expected = mean(error, weight, normalise=settings.get("normalise", True))
    assert value == pytest.approx(expected, rel=1e-4)


def test_a_mask_grows_by_its_share_of_the_side(backbone: Backbone) -> None:
    step, value = region(backbone, masked(), grow=0.125)
    error = step.error.detach()
    side = error.shape[-1]
    weight = torch.zeros_like(error[:, :1])
    weight[..., : side // 2 + side // 8] = 1.0
    assert value == pytest.approx(mean(error, weight), rel=1e-4)


def test_without_masks_a_picture_is_inside_as_a_whole(backbone: Backbone) -> None:
    step, value = region(backbone, masked(empty=True))
    assert value == pytest.approx(float(step.error.detach().mean()), rel=1e-4)
    _, outside = region(backbone, masked(empty=True), region="outside")
    assert outside == 0.0


class AskedAbout(Technique):
    """Keeps the error under a text, asked while the network has its edits."""

    id = "test.told"
    text: str = ""

    @hookimpl
    def regularize(self, step: Any) -> None:
        with torch.no_grad():
            output = step.evaluate(step.noisy, step.level, step.encode(self.text)).output
            SEEN.append(float(step.compute_error(output, step.target).mean()))


def test_the_network_is_told_the_regions_text(backbone: Backbone) -> None:
    SEEN.clear()
    uses = [
        LearnableToken(noise=0.3),
        AskedAbout(text="a cat and <fido> of a dog"),
        RegionError(text="a cat and {token} of a {noun}", region="all"),
    ]
    phase = Phase("p", 1, batch={"subject": 2}, lr={"*": 1e-9}, losses=("region", "core.denoise"))
    (artifact,) = fit(make_recipe(uses, phase), masked(), backbone)
    assert artifact.losses["region"] == pytest.approx(SEEN[0], rel=1e-5)
    assert artifact.losses["region"] != pytest.approx(artifact.losses["core.denoise"], rel=1e-5)


def test_each_row_is_told_the_word_of_its_own_picture(backbone: Backbone) -> None:
    """A background's word is moved where its own picture is in the step, and no other."""
    uses = [
        LearnableToken(templates=("{token} <context.{reference}>",)),
        ReferenceWords(start="cat"),
        RegionError(text="<context.{reference}>", region="outside"),
        Spy(),
    ]
    SEEN.clear()
    phase = Phase("p", 1, batch={"subject": 1}, lr={"*": 0.1}, losses=("region",), optimizer="sgd")
    (artifact,) = fit(make_recipe(uses, phase), masked(3), backbone)
    (number,) = SEEN[0].batch.index
    table: Any = backbone.embedding.weight
    start = table[backbone.tokenizer.encode("cat")].detach()
    for i in range(3):
        rows = artifact.tensors[f"tokens.per_reference/<context.{i}>/rows"]
        assert rows.equal(start) == (i != number)


@pytest.mark.parametrize(
    ("probability", "least", "most"), [(0.0, 0, 0), (0.5, 2, 18), (1.0, 20, 20)]
)
def test_a_share_of_the_steps_has_it(
    backbone: Backbone, probability: float, least: int, most: int
) -> None:
    technique = RegionError(probability=probability)
    recipe = make_recipe([LearnableToken(), technique], Phase("p", 1))
    from pcs_engine.run import EngineRun

    run = EngineRun(recipe, backbone)
    drawn = [technique._drawn(run, step) for step in range(20)]
    assert least <= sum(drawn) <= most
    assert drawn == [technique._drawn(run, step) for step in range(20)]
