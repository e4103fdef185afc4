"""Start noise: partly the reference's own, correlated between frames, of unit variance."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pcs_core import fit, sample
from pcs_core.backbone import Backbone
from pcs_core.data import Example, Features, Subject
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


@pytest.mark.parametrize(("over", "over_distance"), [("all", False), ("distance", True)])
def test_what_is_mixed_is_where_the_inversion_ends(
    backbone: Backbone, over: Any, over_distance: bool
) -> None:
    """sqrt(s) of the reference's last latents and sqrt(1 - s) of noise, correlated as the setting says."""
    rng = torch.Generator().manual_seed(0)
    way = torch.randn(5, 3, 4, 8, 8, generator=rng)  # from the clip to its noise
    run: Any = SimpleNamespace(
        features=Features(examples=(Example(image=way[0], captions=()),)),
        invert=lambda *_, **__: way,
        log=lambda _: None,
    )
    prior = NoisePrior(inverted=0.25, correlation=0.6, over=over)
    kept = prior.extract(run, Subject("s", concepts=()), "start")
    assert kept is not None
    torch.testing.assert_close(kept.tensors[NOISE], way[-1])
    run.features = Features(tensors={NOISE: kept.tensors[NOISE][None]})
    noise = torch.randn(2, 3, 4, 8, 8, generator=rng)
    expected = 0.5 * way[-1] + 0.75**0.5 * correlated(noise, 0.6, over_distance=over_distance)
    torch.testing.assert_close(prior._mixed(run, noise), expected)


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
