"""The scorer: right about renders it never saw, and plain about misuse."""

import pytest
import torch

from pcs_mini.evaluate import RENDER_SEED, prompt_set, to_tensor
from pcs_mini.plugin import folder
from pcs_mini.world.places import PLACES
from pcs_mini.world.pool import render_pool
from pcs_mini.world.roster import roster

pytestmark = pytest.mark.skipif(
    not (folder() / "clip").exists(), reason="a source tree without trained weights"
)


@pytest.fixture(scope="module")
def scorer():
    from pcs_mini.scorer import load

    return load()


def test_names_nouns_and_places_of_renders(scorer):
    pool = render_pool(120, RENDER_SEED + 1)
    images = to_tensor(pool.images)
    assert scorer.class_accuracy(images, [noun for noun, _, _ in pool.labels]) >= 0.9
    assert scorer.place_accuracy(images, [place for _, _, place in pool.labels]) >= 0.9


def test_features_have_unit_norm_at_any_size(scorer):
    for size in (64, 96):
        features = scorer.image_features(torch.rand(3, 3, size, size))
        torch.testing.assert_close(features.norm(dim=1), torch.ones(3))
    assert scorer.text_features(["a dog", "a cat in the snow"]).shape == (2, features.shape[1])


def test_gradients_reach_the_picture(scorer):
    image = torch.rand(1, 3, 64, 64, requires_grad=True)
    scorer.image_features(image).sum().backward()
    assert image.grad.abs().sum() > 0


def test_the_gate_asks_for_everything():
    prompts = prompt_set(18)
    assert {noun for _, noun, _ in prompts} == set(roster().nouns)
    assert {place for _, _, place in prompts} == set(PLACES)


def test_lengths_must_agree(scorer):
    with pytest.raises(ValueError, match="2 pictures"):
        scorer.class_accuracy(torch.rand(2, 3, 64, 64), ["dog"])
    with pytest.raises(ValueError, match="one per picture"):
        scorer.text_alignment(torch.rand(2, 3, 64, 64), ["a dog"])
