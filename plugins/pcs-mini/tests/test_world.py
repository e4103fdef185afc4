"""The world: the same seed draws the same, masks are exact, held-out drawings stay out."""

import numpy as np
import pytest

from pcs_mini.world.atlas import AtlasError, holds, index, sprite
from pcs_mini.world.captions import caption, draw_caption
from pcs_mini.world.compose import compose, draw
from pcs_mini.world.places import COLOURS, PLACES, SCENES, paint, phrase
from pcs_mini.world.pool import render_pool
from pcs_mini.world.roster import roster


def test_same_seed_same_pool():
    a, b, c = render_pool(12, 3), render_pool(12, 3), render_pool(12, 4)
    assert np.array_equal(a.images, b.images)
    assert np.array_equal(a.masks, b.masks)
    assert a.captions == b.captions
    assert not np.array_equal(a.images, c.images)


@pytest.mark.parametrize("place", ["red", "grass", "brick"])
def test_mask_is_where_the_picture_differs_from_the_place(place):
    seed = 11
    image, mask = compose(np.random.default_rng(seed), "car", "glossy", place)
    empty = paint(place, np.random.default_rng(seed), 64).astype(np.uint8)
    changed = (image != empty).any(-1)
    assert not changed[mask == 0].any()
    assert changed[mask == 255].mean() > 0.95
    assert 0.15 < (mask > 127).mean() < 0.8


def test_training_never_draws_what_is_held_out():
    people = roster()
    rng = np.random.default_rng(0)
    for _ in range(300):
        sample = draw(rng)
        assert people.is_trained(sample.noun, sample.style)
        words = set(sample.caption.split())
        assert not words & (people.held_out_nouns.keys() | people.held_out_styles.keys())


def test_held_out_and_trained_do_not_overlap():
    people = roster()
    held_out = people.held_out_nouns.keys() | people.held_out_styles.keys()
    assert not held_out & (people.nouns.keys() | people.styles.keys() | people.scorer_nouns.keys())
    trained_sets = {name for name, about in index()["sets"].items() if about["trained"]}
    assert trained_sets == set(people.styles.values())
    for noun in people.nouns:
        assert all(holds(noun, style) for style in people.all_styles)


def test_places_are_painted_at_any_size():
    for place in PLACES:
        for size in (64, 128):
            picture = paint(place, np.random.default_rng(0), size)
            assert picture.shape == (size, size, 3)
            assert picture.min() >= 0
            assert picture.max() <= 255


def test_captions_name_subject_and_place():
    assert caption("dog", "beach", template="a photo of {}") == "a photo of a dog on the beach"
    assert (
        caption("car", "red", style="flat", colour="blue") == "a flat blue car on a red background"
    )
    rng = np.random.default_rng(0)
    for place in (*COLOURS, *SCENES):
        text = draw_caption(rng, "owl", place, "flat")
        assert "owl" in text.split()
        assert phrase(place) in text or not text.endswith(phrase(place))


def test_unknown_names_say_what_to_do():
    with pytest.raises(AtlasError, match="pcs mini pack"):
        sprite("unicorn", "flat")
    with pytest.raises(ValueError, match="moon"):
        paint("moon", np.random.default_rng(0))
