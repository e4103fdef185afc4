"""Start noise: partly the reference's own, correlated between frames, of unit variance."""

from __future__ import annotations

import pytest
import torch

from pcs_core import fit, sample
from pcs_core.backbone import Backbone
from pcs_core.data import Subject
from pcs_testing import make_recipe
from pcs_video.noise_prior import NOISE, NoisePrior, correlated

PROMPT = "a photo of <run>"


def test_the_inverted_noise_is_kept_and_mixed(backbone: Backbone, subject: Subject) -> None:
    recipe = make_recipe([NoisePrior(inverted=1.0, steps=4)])
    (artifact,) = fit(recipe, subject, backbone)
    assert artifact.features[NOISE].shape == backbone.latent_shape
    first, second = (sample(artifact, backbone, PROMPT, seed=s, steps=4) for s in (0, 1))
    # all of the noise is the reference's: the seed says nothing
    assert torch.equal(first, second)
    half = make_recipe([NoisePrior(inverted=0.5, steps=4)])
    (other,) = fit(half, subject, backbone)
    drawn = [sample(other, backbone, PROMPT, seed=s, steps=4) for s in (0, 1)]
    assert not torch.equal(*drawn)
    plain = [sample(None, backbone, "a photo of dog", seed=s, steps=4) for s in (0, 1)]
    assert (drawn[0] - drawn[1]).abs().mean() < (plain[0] - plain[1]).abs().mean()


def test_without_it_nothing_is_inverted(backbone: Backbone, subject: Subject) -> None:
    (artifact,) = fit(make_recipe([NoisePrior(inverted=0.0)]), subject, backbone)
    assert not artifact.features


@pytest.mark.parametrize("over_distance", [False, True])
def test_frames_are_correlated_and_keep_unit_variance(over_distance: bool) -> None:
    noise = torch.randn(1, 8, 4, 48, 48, generator=torch.Generator().manual_seed(0))
    mixed = correlated(noise, 0.6, over_distance=over_distance)
    frames = mixed[0].transpose(0, 1).flatten(1)
    measured = torch.corrcoef(frames)
    distance = (torch.arange(4)[:, None] - torch.arange(4)).abs()
    expected = 0.6 ** (distance if over_distance else distance.clamp(max=1)).float()
    assert (measured - expected).abs().max() < 0.03
    assert (frames.std(dim=1) - 1).abs().max() < 0.02
