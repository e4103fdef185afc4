"""The trajectory of a reference, kept in the artifact."""

from __future__ import annotations

import torch

from pcs_core import fit
from pcs_core.backbone import Backbone
from pcs_core.data import Subject
from pcs_inversion.ddim import TRAJECTORY, DDIMInversion
from pcs_testing import make_recipe, make_subject


def test_it_goes_from_the_picture_to_noise(backbone: Backbone) -> None:
    subject = make_subject()
    (artifact,) = fit(make_recipe([DDIMInversion(steps=6)]), subject, backbone)
    way = artifact.features[TRAJECTORY]
    assert tuple(way.shape) == (7, *backbone.latent_shape)
    mean, _ = backbone.moments(torch.stack(subject.images))
    torch.testing.assert_close(way[0], mean[0], rtol=1e-4, atol=1e-5)
    spread = way.flatten(1).std(dim=1)
    assert (spread[-1] - 1).abs() < (spread[0] - 1).abs()


def test_the_image_and_the_prompt_decide(backbone: Backbone) -> None:
    subject = make_subject()
    ways = [
        fit(make_recipe([DDIMInversion(steps=3, **s)]), subject, backbone)[0].features[TRAJECTORY]
        for s in ({}, {"image": 1}, {"prompt": "a red car"}, {"scale": 3.0})
    ]
    for other in ways[1:]:
        assert (other[-1] - ways[0][-1]).abs().max() > 1e-4


def test_beyond_the_last_reference_the_last_is_inverted(backbone: Backbone) -> None:
    ways = [
        fit(make_recipe([DDIMInversion(steps=2, image=i)]), make_subject(), backbone)[0].features
        for i in (1, 2)
    ]
    assert torch.equal(ways[0][TRAJECTORY], ways[1][TRAJECTORY])


def test_a_subject_without_pictures_has_none(backbone: Backbone) -> None:
    (artifact,) = fit(make_recipe([DDIMInversion()]), Subject("s", concepts=()), backbone)
    assert not artifact.features
