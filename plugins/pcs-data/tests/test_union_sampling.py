"""Sets of concepts: caption, masks and mirror image go together."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import torch

from pcs_core.backbone import Backbone
from pcs_core.data import Concept, Example, Subject
from pcs_data.union_sampling import UnionSampling, mirrored
from pcs_engine.prepare import extract
from pcs_engine.run import EngineRun
from pcs_testing import make_recipe, make_subject

TOKENS = ("<a>", "<b>", "<c>", "<d>")


def scene(count: int) -> Subject:
    masks = {}
    for k in range(count):
        mask = torch.zeros(1, 32, 32)
        mask[..., 8 * k : 8 * k + 8] = 1.0
        masks["abcd"[k]] = (mask,)
    concepts = tuple(Concept("abcd"[k], TOKENS[k], "toy") for k in range(count))
    return replace(make_subject(images=1), concepts=concepts, masks=masks)


def shown(backbone: Backbone, subject: Subject, **settings: bool) -> tuple[Example, ...]:
    run = EngineRun(make_recipe([UnionSampling(**settings)]), backbone, concepts=[subject.concepts])
    (features,) = extract(run, [subject])[1]
    return features.examples


def test_sizes_are_drawn_equally_often_and_sets_of_a_size_too(backbone: Backbone) -> None:
    """A number of concepts first, then which: not every set alike, as 3 of 7 sets would be single."""
    for count in (2, 3, 4):
        sets = Counter(e.concepts for e in shown(backbone, scene(count)))
        sizes: Counter[int] = Counter()
        for names, times in sets.items():
            sizes[len(names)] += times
        assert set(sizes) == set(range(1, count + 1))
        assert len(set(sizes.values())) == 1, sizes
        for size in sizes:
            assert len({n for names, n in sets.items() if len(names) == size}) == 1


def test_tokens_of_a_set_stand_in_every_rotation(backbone: Backbone) -> None:
    examples = shown(backbone, scene(3))
    pair = {c for e in examples if e.concepts == ("a", "b") for c in e.captions}
    assert pair == {"a photo of <a> and <b>", "a photo of <b> and <a>"}
    whole = Counter(c for e in examples if len(e.concepts) == 3 for c in e.captions)
    assert sorted(whole.values()) == [2, 2, 2]


def test_a_picture_and_its_mirror_image_are_encoded_once(backbone: Backbone) -> None:
    assert len({e.image.data_ptr() for e in shown(backbone, scene(3))}) == 2


def test_words_and_masks_are_of_one_set(backbone: Backbone) -> None:
    for example in shown(backbone, scene(3)):
        masked = {k for k in range(3) if f"mask.concept.{k}" in example.regions}
        for caption in example.captions:
            assert {k for k, token in enumerate(TOKENS) if token in caption} == masked
    captions = {c for e in shown(backbone, scene(2)) for c in e.captions}
    assert {"a photo of <a>", "a photo of <b>", "a photo of <a> and <b>"} <= captions


def test_mirrored_masks_follow_the_picture(backbone: Backbone) -> None:
    first, *others = shown(backbone, scene(2), subsets=False)
    (mirror,) = others
    assert torch.equal(mirror.image, first.image.flip(-1))
    for key in ("mask.concept.0", "mask.concept.1"):
        assert torch.equal(mirror.regions[key], first.regions[key].flip(-1))


def test_one_concept_is_only_mirrored(backbone: Backbone) -> None:
    assert len(shown(backbone, scene(1))) == 2
    assert len(shown(backbone, scene(1), flip=False)) == 1


def test_a_mask_is_mirrored_left_to_right_alone() -> None:
    corner = torch.zeros(1, 4, 6)
    corner[0, 0, 1] = 1.0
    example = Example(
        image=corner.expand(3, -1, -1), captions=(), mask=corner, regions={"mask.concept.0": corner}
    )
    turned = mirrored(example, example.image.flip(-1))
    assert turned.mask is not None
    for mask in (turned.mask, turned.regions["mask.concept.0"], turned.image[:1]):
        assert mask.nonzero().tolist() == [[0, 0, 4]]
