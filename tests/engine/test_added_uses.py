"""Techniques of a preset act when drawing, behind the recipe's own, and must need no fit."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
import torch

from pcs_core import Technique, fit, hookimpl, open_backbone, sample
from pcs_core.data import Phase, Preset, SampleSettings, Use
from pcs_core.errors import InputError
from pcs_testing import make_recipe, make_subject
from pcs_testing.probe import Probe

ORDER: list[str] = []


class Inner(Technique):
    """Halves the prediction."""

    id = "test.inner"

    @hookimpl(wrapper=True)
    def sample(self, step: Any) -> Generator[None, Any, Any]:
        ORDER.append(f"inner {step.count}")
        prediction = yield
        return type(prediction)(prediction.x0 * 0.5)


class Outer(Technique):
    id = "test.outer"

    @hookimpl(wrapper=True)
    def sample(self, step: Any) -> Generator[None, Any, Any]:
        ORDER.append("outer")
        return (yield)


def added(technique: Technique, **numbers: Any) -> Preset:
    return Preset("test", uses=(Use(technique.id, technique),), sample=numbers)


def test_a_preset_draws_another_picture_and_the_artifact_stays() -> None:
    backbone: Any = open_backbone("tiny")
    recipe = make_recipe(
        [Outer(), Probe()],
        Phase("p", 1, lr={"*": 0.3}),
        sample=SampleSettings(steps=3, scale=1.0),
    )
    (artifact,) = fit(recipe, make_subject(), backbone)
    prompt = "a photo of <fido>"
    plain = sample(artifact, backbone, prompt)
    ORDER.clear()
    fast = sample(artifact, backbone, prompt, preset=added(Inner(), steps=2))
    assert ORDER == ["outer", "inner 2"] * 2
    assert (fast - plain).abs().max() > 1e-4
    ORDER.clear()
    sample(artifact, backbone, prompt, preset=added(Inner(), steps=2), steps=1)
    assert ORDER == ["outer", "inner 1"]  # what is given beside it counts
    assert torch.equal(sample(artifact, backbone, prompt), plain)
    assert [use.name for use in artifact.recipe.uses] == ["test.outer", "testing.probe"]


def test_the_untuned_backbone_takes_one_too() -> None:
    backbone: Any = open_backbone("tiny")
    plain = sample(None, backbone, "a dog", steps=2)
    assert (sample(None, backbone, "a dog", preset=added(Inner(), steps=2)) - plain).abs().max() > 0


def test_what_needs_a_fit_is_refused() -> None:
    backbone: Any = open_backbone("tiny")
    recipe = make_recipe([Probe()], Phase("p", 1))
    (artifact,) = fit(recipe, make_subject(), backbone)
    with pytest.raises(InputError, match="has a use 'testing.probe' already"):
        sample(artifact, backbone, "a <fido>", preset=added(Probe()))
    second = Preset("test", uses=(Use("second", Probe()),))
    for who in (artifact, None):
        with pytest.raises(InputError, match="'second' needs a fit"):
            sample(who, backbone, "a <fido>", preset=second)
