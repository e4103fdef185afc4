"""Stitched pictures: both concepts are in them, named, and in regions that partition the picture."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import torch

from pcs_core import Technique, fit, hookimpl
from pcs_core.backbone import Backbone
from pcs_core.data import Concept, Example, Phase, Subject
from pcs_core.errors import InputError
from pcs_data.cut_mix import CutMix, half
from pcs_engine.prepare import extract
from pcs_engine.run import EngineRun
from pcs_testing import make_picture, make_recipe, make_subject
from pcs_testing.probe import Probe


def pair(captions: tuple[str | None, ...] = ("a <cat>", "a <cat>", "<dog>", "<dog>")) -> Subject:
    """Return a subject of two concepts, the pictures of the first darker than 0.5."""
    pictures = tuple(make_picture(i) * 0.4 + (0.0 if i < 2 else 0.6) for i in range(4))
    concepts = (Concept("cat", "<cat>", "cat"), Concept("dog", "<dog>", "dog"))
    return Subject("pair", concepts, images=pictures, captions=captions)


def stitched(backbone: Backbone, subject: Subject, **settings: Any) -> list[Example]:
    technique = CutMix(**settings)
    run = EngineRun(
        make_recipe([technique]), backbone, names=[subject.name], concepts=[subject.concepts]
    )
    features = extract(run, [subject])[1][0]
    return list(features.examples[len(subject.images) :])


@pytest.mark.parametrize("layout", ["halves", "scaled"])
def test_both_are_in_the_picture_where_their_masks_say(backbone: Backbone, layout: str) -> None:
    examples = stitched(backbone, pair(), layout=layout)
    assert len(examples) == 6  # 6 of 10 rows
    orders = set()
    for example in examples:
        cat, dog = (example.regions[f"mask.concept.{k}"] for k in (0, 1))
        assert torch.equal(cat + dog, torch.ones_like(cat))
        assert cat.sum() == dog.sum()
        assert example.image.shape == (3, 32, 32)
        assert (example.image[:, cat[0] > 0]).max() < 0.5 < (example.image[:, dog[0] > 0]).min()
        first = "<cat>" if cat[0, 0, 0] else "<dog>"
        for caption in example.captions:
            assert "<cat>" in caption
            assert "<dog>" in caption
            assert caption.index(first) == min(caption.index("<cat>"), caption.index("<dog>"))
        orders.add(first)
    assert orders == {"<cat>", "<dog>"}


def test_a_half_is_the_picture_s_middle_or_all_of_it() -> None:
    columns = torch.arange(20.0).expand(3, 10, 20) / 20
    middle, shown = half(columns, 8, None)
    assert torch.equal(middle, columns[..., 6:14])
    assert shown.shape == (1, 10, 8)
    assert bool(shown.all())
    whole, shown = half(columns, 10, random.Random(0))
    assert whole.shape == (3, 10, 10)
    rows = shown[0, :, 0] > 0
    assert int(rows.sum()) == 5  # half as wide, half as high
    assert bool((shown[0] > 0).eq(rows[:, None]).all())
    assert whole[0, rows].mean(0)[[0, -1]].tolist() == pytest.approx([0.02, 0.93], abs=0.03)
    assert whole[:, ~rows].flatten().tolist() == pytest.approx([float(columns.mean())] * 150)


def test_share_is_of_all_rows(backbone: Backbone) -> None:
    assert len(stitched(backbone, pair(), share=0.5)) == 4
    assert not stitched(backbone, pair(), share=0.0)


def test_one_concept_needs_no_stitching(backbone: Backbone) -> None:
    assert not stitched(backbone, make_subject())


def test_masks_tell_too(backbone: Backbone) -> None:
    mask = torch.ones(1, 32, 32)
    masks = {"cat": (mask, mask, None, None), "dog": (None, None, mask, mask)}
    subject = replace(pair((None,) * 4), masks=masks)
    assert len(stitched(backbone, subject)) == 6


@pytest.mark.parametrize("captions", [(None,) * 4, ("a <cat>",) * 4, ("<cat> and <dog>",) * 4])
def test_pictures_that_nobody_can_tell_apart_are_refused(backbone: Backbone, captions: Any) -> None:
    with pytest.raises(
        InputError,
        match=r"no picture (is known to show '<(cat|dog)>' alone|shows 'dog'): name it in a caption",
    ):
        stitched(backbone, pair(captions))


def test_the_loop_sees_the_regions_of_each_row(backbone: Backbone) -> None:
    seen: list[tuple[str, float]] = []

    class Spy(Technique):
        id = "test.spy"

        @hookimpl
        def regularize(self, run: Any, step: Any) -> None:
            for row, caption in enumerate(step.batch.captions):
                regions = [step.batch.regions[f"mask.concept.{k}"][row] for k in (0, 1)]
                assert regions[0].shape == (1, *backbone.latent_shape[-2:])
                seen.append((caption, float((regions[0] + regions[1]).mean())))

    fit(make_recipe([Spy(), CutMix(), Probe()], Phase("p", 12, lr={"*": 1e-4})), pair(), backbone)
    both = {area for caption, area in seen if "<cat>" in caption and "<dog>" in caption}
    alone = {area for caption, area in seen if not ("<cat>" in caption and "<dog>" in caption)}
    assert both == {1.0}
    assert alone == {0.0}
