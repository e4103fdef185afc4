"""Variants of the references: a finite pool, drawn before the loop."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from pcs_core.backbone import Backbone
from pcs_core.data import Example, Features, Subject
from pcs_data.augment import Augment, _crop, _rescale
from pcs_engine.prepare import extract
from pcs_engine.run import EngineRun
from pcs_testing import make_picture, make_recipe, make_subject


def pool(backbone: Backbone, *subjects: Subject, seed: int = 0, **settings: Any) -> list[Features]:
    subjects = subjects or (make_subject(),)
    run = EngineRun(
        make_recipe([Augment(**settings)]),
        backbone,
        seed=seed,
        names=[s.name for s in subjects],
        concepts=[s.concepts for s in subjects],
    )
    return list(extract(run, subjects)[1])


def variants(
    backbone: Backbone, **settings: Any
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    examples = pool(backbone, **settings)[0].examples
    return examples[:2], examples[2:]


def test_counts_roles_and_references(backbone: Backbone) -> None:
    references, drawn = variants(backbone, variants=3)
    assert [e.index for e in drawn] == [0, 0, 0, 1, 1, 1]
    assert {e.role for e in drawn} == {"subject"}
    assert all(e.image.shape == references[0].image.shape for e in drawn)
    assert not variants(backbone, variants=0)[1]


def test_a_flip_is_exact(backbone: Backbone) -> None:
    references, drawn = variants(backbone, variants=1, flip=1.0)
    for reference, variant in zip(references, drawn, strict=True):
        assert torch.equal(variant.image, reference.image.flip(-1))
    _, same = variants(backbone, variants=1, flip=0.0)
    assert torch.equal(same[0].image, references[0].image)


def test_crops_and_rescaling_stay_in_range(backbone: Backbone) -> None:
    _, drawn = variants(backbone, variants=8, crop=0.5, rescale=(0.3, 1.6))
    images = torch.stack([e.image for e in drawn])
    assert images.shape[1:] == (3, 32, 32)
    assert images.min() >= 0
    assert images.max() <= 1
    assert len({tuple(i.flatten().tolist()) for i in images}) == len(images)


def ramps(height: int, width: int) -> torch.Tensor:
    """Return a picture whose channels are a pixel's place: its column and row in 0..1, and a half."""
    rows = ((torch.arange(height) + 0.5) / height)[:, None].expand(height, width)
    columns = ((torch.arange(width) + 0.5) / width).expand(height, width)
    return torch.stack([columns, rows, torch.full((height, width), 0.5)])


def seen(picture: torch.Tensor) -> tuple[float, ...]:
    """Return what part of the ramps a picture shows: left, right, top, bottom, in 0..1 of the sides."""
    height, width = picture.shape[-2:]
    ends = []
    for channel, side in ((picture[0].mean(0), width), (picture[1].mean(1), height)):
        inner = channel[side // 4 : -(side // 4)]  # away from the edges, where resizing flattens
        slope = float(inner[-1] - inner[0]) / (len(inner) - 1)
        middle = float(inner.mean())
        ends += [middle - slope * side / 2, middle + slope * side / 2]
    return tuple(ends)


@pytest.mark.parametrize(
    ("keep", "corner", "part"),
    [
        (0.5, (0.25, 0.75), (0.375, 0.875, 0.125, 0.625)),
        (0.75, (1.0, 0.0), (0.0, 0.75, 0.25, 1.0)),
        (1.0, (0.3, 0.6), (0.0, 1.0, 0.0, 1.0)),
    ],
)
def test_a_crop_keeps_the_part_that_is_drawn(
    keep: float, corner: tuple[float, float], part: tuple[float, ...]
) -> None:
    picture = _crop(ramps(32, 64), keep, corner)
    assert picture.shape == (3, 32, 64)
    assert seen(picture) == pytest.approx(part, abs=0.02)


def test_a_larger_picture_is_a_window_of_itself() -> None:
    picture = _rescale(ramps(32, 64), 2.0, (0.25, 0.75))
    assert picture.shape == (3, 32, 64)
    assert seen(picture) == pytest.approx((0.375, 0.875, 0.125, 0.625), abs=0.02)


def test_a_smaller_picture_stands_where_the_corner_says() -> None:
    picture = _rescale(ramps(32, 64), 0.5, (0.25, 0.75), fill=torch.zeros(1, 1, 1))
    inside = picture[2] > 0.4
    rows, columns = inside.any(1).nonzero().flatten(), inside.any(0).nonzero().flatten()
    assert (int(rows[0]), int(rows[-1])) == (4, 19)  # a quarter of the 16 rows that are free
    assert (int(columns[0]), int(columns[-1])) == (24, 55)
    assert seen(picture[:, 4:20, 24:56]) == pytest.approx((0, 1, 0, 1), abs=0.04)


def test_crops_take_up_to_the_largest_part(backbone: Backbone) -> None:
    place = ramps(32, 32)
    subject = replace(make_subject(images=1), images=(place,))
    examples = pool(backbone, subject, variants=64, crop=0.4, flip=0.0)[0].examples[1:]
    widths = [right - left for left, right, _, _ in (seen(e.image) for e in examples)]
    assert all(0.55 < width < 1.05 for width in widths)
    assert min(widths) < 0.7
    assert max(widths) > 0.9
    untouched = pool(backbone, subject, variants=4, flip=0.0)[0].examples[1:]
    assert all(torch.equal(e.image, place) for e in untouched)


def test_size_words_say_what_was_done(backbone: Backbone) -> None:
    _, small = variants(backbone, variants=2, rescale=(0.3, 0.4))
    assert {c for e in small for c in e.captions} == {
        "a far away a photo of <fido>",
        "very small a photo of <fido>",
    }
    settings: dict[str, Any] = {"variants": 2, "caption": "photo of a {token}"}
    _, large = variants(backbone, rescale=(1.2, 1.4), **settings)
    assert {c for e in large for c in e.captions} == {
        "zoomed in photo of a <fido>",
        "close up photo of a <fido>",
    }
    _, plain = variants(backbone, variants=2, rescale=(0.3, 0.4), size_words=False)
    assert all(c == "a photo of <fido>" for e in plain for c in e.captions)
    _, middle = variants(backbone, variants=2, rescale=(0.7, 0.9))
    assert all(c == "a photo of <fido>" for e in middle for c in e.captions)


PUBLISHED: dict[str, Any] = {
    "rescale": (1 / 3, 1.0),
    "close_ups": (1.2, 1.4),
    "whole": True,
    "fill": "grey",
}
"""What Custom Diffusion's code does."""


def test_the_published_sizes(backbone: Backbone) -> None:
    """Two of three from 1/3 to 1, of which those from 0.6 on stay whole; one of three from 1.2 to 1.4."""
    references, drawn = variants(backbone, variants=200, flip=0.0, **PUBLISHED)
    small = [e for e in drawn if "mask.valid.augment" in e.regions]
    whole = [e for e in drawn if any(torch.equal(e.image, r.image) for r in references)]
    close = len(drawn) - len(small) - len(whole)
    assert 0.2 < len(small) / len(drawn) < 0.34  # 2/3 * (0.6 - 1/3) / (2/3) = 0.27
    assert 0.32 < len(whole) / len(drawn) < 0.48  # 2/3 * 0.4 / (2/3) = 0.4
    assert 0.27 < close / len(drawn) < 0.4
    for example in small:
        valid = example.regions["mask.valid.augment"]
        assert 0.1 < float(valid.mean()) < 0.37
        ground = example.image[:, valid[0] < 1e-6]
        torch.testing.assert_close(ground, torch.full_like(ground, 0.5))


def test_close_ups_are_of_any_part(backbone: Backbone) -> None:
    _, drawn = variants(backbone, variants=20, flip=0.0, rescale=(1.4, 1.4))
    assert len({tuple(e.image.flatten().tolist()) for e in drawn}) > 25  # of 2 x 20


def test_masks_move_with_the_picture() -> None:
    image = make_picture()
    mask = (image.mean(0, keepdim=True) > 0.5).float()
    example = Example(image=image.clone(), captions=(), mask=mask)
    import random

    for settings in (
        {"flip": 1.0},
        {"crop": 0.5, "flip": 0.0},
        {"rescale": (0.4, 0.5), "flip": 0.0},
    ):
        technique = Augment(**settings)  # type: ignore[arg-type]
        moved = technique._vary(example, random.Random(3))
        # the same change made to the mask as a picture gives the mask of the picture
        as_picture = technique._vary(
            example.with_(image=mask.expand(3, -1, -1), mask=None), random.Random(3)
        ).image[:1]
        assert moved.mask is not None
        if "rescale" in settings:  # outside the pasted picture there is no subject
            inside = moved.mask > 0
            assert 0 < inside.float().mean() < 0.5
            torch.testing.assert_close(moved.mask[inside], as_picture[inside])
        else:
            torch.testing.assert_close(moved.mask, as_picture)


def test_drawn_from_the_subjects_own_seed(backbone: Backbone) -> None:
    settings: dict[str, Any] = {"variants": 4, "crop": 0.4}
    ann, bob = make_subject("ann", seed=1), make_subject("bob", seed=2)
    together, alone = pool(backbone, ann, bob, **settings), pool(backbone, bob, **settings)
    for one, other in zip(together[1].examples, alone[0].examples, strict=True):
        assert torch.equal(one.image, other.image)
    reseeded = pool(backbone, bob, seed=1, **settings)[0]
    assert any(
        not torch.equal(a.image, b.image)
        for a, b in zip(alone[0].examples, reseeded.examples, strict=True)
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"flip": 1.5},
        {"variants": -1},
        {"crop": 0.9},
        {"rescale": [0.0, 1.0]},
        {"rescale": [0.5, 5.0]},
        {"rescale": [1.4, 0.4]},
    ],
)
def test_out_of_range(settings: dict[str, Any]) -> None:
    from pcs_core.errors import RecipeError

    with pytest.raises(RecipeError, match=next(iter(settings))):
        Augment.from_settings(settings)


def test_regions_follow_the_picture(backbone: Backbone) -> None:
    from dataclasses import replace

    from pcs_engine.prepare import extract
    from pcs_engine.run import EngineRun

    left = torch.zeros(1, 32, 32)
    left[..., :16] = 1.0
    subject = make_subject(images=1)
    subject = replace(subject, images=(left.expand(3, -1, -1).clone(),), masks={"fido": (left,)})
    settings = {"variants": 6, "flip": 0.5, "crop": 0.3, "rescale": (1.0, 1.5)}
    run = EngineRun(make_recipe([Augment(**settings)]), backbone, concepts=[subject.concepts])
    (features,) = extract(run, [subject])[1]
    shown = features.examples[1:]
    assert len(shown) == 6
    for example in shown:  # the picture is its own mask
        torch.testing.assert_close(
            example.regions["mask.concept.0"], example.image[:1], rtol=0, atol=1e-4
        )
    assert len({float(e.image.sum()) for e in shown}) > 1
