"""A reference's latents in a drawing: where they stand, when, and of which level."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from pcs_core import Technique, fit, hookimpl, sample
from pcs_core.backbone import Backbone
from pcs_core.data import Prediction, SampleSettings, Subject
from pcs_core.errors import RecipeError
from pcs_inversion.blend import MASK, LatentBlend
from pcs_inversion.ddim import TRAJECTORY, DDIMInversion
from pcs_testing import make_recipe, make_subject
from pcs_tokens.rare import RareToken

SHOWN: list[torch.Tensor] = []
STEPS = 4


class Shown(Technique):
    """Writes down the latents that the network is asked about."""

    id = "test.shown"

    @hookimpl(wrapper=True, trylast=True)
    def sample(self, step: Any) -> Any:
        SHOWN.append(step.latents.clone())
        answer: Prediction = yield
        return answer


def masked(images: int = 2) -> Subject:
    left = torch.zeros(1, 32, 32)
    left[..., :16] = 1.0
    right = 1 - left
    masks = (left, right)[:images]
    return replace(make_subject(images=images), masks={"fido": masks})


def drawn(
    backbone: Backbone, subject: Subject | None = None, **settings: Any
) -> tuple[list[torch.Tensor], Any]:
    uses = [RareToken(identifier=""), DDIMInversion(steps=STEPS), LatentBlend(**settings), Shown()]
    recipe = make_recipe(uses, sample=SampleSettings(steps=STEPS, scale=2.0))
    (artifact,) = fit(recipe, subject or masked(), backbone)
    SHOWN.clear()
    sample(artifact, backbone, "a photo of a <fido>", seed=1)
    return list(SHOWN), artifact


def plain(backbone: Backbone) -> list[torch.Tensor]:
    return drawn(backbone, weight=0.0)[0]


@pytest.mark.parametrize(
    ("settings", "left", "right"),
    [
        ({}, 1.0, 0.0),
        ({"region": "outside"}, 0.0, 1.0),
        ({"region": "all"}, 1.0, 1.0),
        ({"weight": 0.25}, 0.25, 0.0),
        ({"image": 1}, 0.0, 1.0),
        ({"grow": 0.5}, 1.0, 1.0),
    ],
)
def test_where_the_reference_stands(
    backbone: Backbone, settings: dict[str, Any], left: float, right: float
) -> None:
    shown, artifact = drawn(backbone, stop=0.25, **settings)
    first, reference = plain(backbone)[0], artifact.features[TRAJECTORY][-1]
    half = first.shape[-1] // 2
    share = torch.full_like(first, right)
    share[..., :half] = left
    torch.testing.assert_close(shown[0], first + share * (reference - first))


def test_each_step_has_the_level_of_its_own(backbone: Backbone) -> None:
    shown, artifact = drawn(backbone, region="all", stop=1.0)
    stored = artifact.features[TRAJECTORY]
    for step, latents in enumerate(shown):
        torch.testing.assert_close(latents[0], stored[STEPS - step])


def test_it_is_there_in_its_part_alone(backbone: Backbone) -> None:
    shown, artifact = drawn(backbone, region="all", start=0.25, stop=0.5)
    assert torch.equal(shown[0], plain(backbone)[0])
    torch.testing.assert_close(shown[1][0], artifact.features[TRAJECTORY][STEPS - 1])
    assert not torch.allclose(shown[2][0], artifact.features[TRAJECTORY][STEPS - 2])


def test_without_a_mask_it_stands_everywhere(backbone: Backbone) -> None:
    _, artifact = drawn(backbone, make_subject(images=1))
    assert bool((artifact.features[MASK] == 1).all())


def test_without_an_inversion_it_is_refused(backbone: Backbone) -> None:
    recipe = make_recipe(
        [RareToken(identifier=""), LatentBlend()], sample=SampleSettings(steps=2, scale=2.0)
    )
    (artifact,) = fit(recipe, masked(), backbone)
    with pytest.raises(RecipeError, match="reads the feature 'ddim.trajectory'"):
        sample(artifact, backbone, "a photo of a <fido>", seed=1)
