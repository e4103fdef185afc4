"""A segmenter's masks reach everything that the user's own masks reach."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from pcs_core import Technique, fit, hookimpl, open_backbone
from pcs_core.data import LOSS, Features, MaskQuery, Masks, Phase, Run, Subject
from pcs_testing import make_picture, make_recipe, make_subject
from pcs_testing.probe import Probe

STEPS: list[Any] = []
EXAMPLES: list[Any] = []


class Segmenter(Technique):
    """Says that each concept is in the left half."""

    id = "test.segmenter"

    @hookimpl
    def mask(self, query: MaskQuery) -> Masks:
        assert query.subject is not None
        assert query.size is not None
        left = torch.zeros(len(query.subject.images), 1, *query.size)
        left[..., : query.size[1] // 2] = 1.0
        return Masks({concept.name: left for concept in query.subject.concepts} | {"sky": 1 - left})


class Spy(Technique):
    id = "test.spy"

    @hookimpl
    def extract(self, run: Run, masks: Masks, moment: str) -> Features | None:
        if moment == "start":
            EXAMPLES[:] = [run.features.examples, masks]
        return None

    @hookimpl
    def regularize(self, step: Any) -> None:
        STEPS.append(step)


def fitted(subject: Subject, *uses: Technique) -> Any:
    """Fit one step and return what the spy saw of it."""
    STEPS.clear()
    phase = Phase("p", 1, batch={"subject": 2}, lr={"*": 0.0})
    fit(make_recipe([Segmenter(), Spy(), *uses, Probe()], phase), subject, open_backbone("tiny"))
    return STEPS[0]


def technique(id: str, **settings: Any) -> Technique:
    from pcs_core.catalogue import catalogue

    made: Technique = catalogue().get("techniques", id).from_settings(settings)
    return made


def test_a_segmenter_weighs_the_error_through_a_masked_loss() -> None:
    loss = fitted(make_subject(), technique("masks.masked_loss")).masks.get(LOSS)
    half = loss.shape[-1] // 2
    assert float(loss[..., : half - 1].min()) == 1.0
    assert float(loss[..., half + 1 :].max()) == 0.0


def test_a_segmenter_holds_attention_to_its_region() -> None:
    uses = [technique("tokens.learnable"), technique("attention.localization_loss", weight=1.0)]
    phase = Phase("p", 1, batch={"subject": 2}, lr={"*": 0.0})
    losses = [
        fit(make_recipe([*masks, *uses], phase), make_subject(), open_backbone("tiny"))[0].losses
        for masks in ([], [Segmenter()])
    ]
    assert "localization" not in losses[0]
    assert losses[1]["localization"] > 0.0


def test_every_key_has_a_region_of_a_sort() -> None:
    step = fitted(make_subject())
    assert set(step.batch.regions) == {"mask.concept.0", "mask.sky"}
    one, sky = step.batch.regions["mask.concept.0"], step.batch.regions["mask.sky"]
    assert one.shape == (2, 1, *step.noisy.shape[-2:])
    assert torch.allclose(one + sky, torch.ones_like(one))
    assert not any("mask" in key for key in step.batch.extra)


def test_extract_sees_the_masks_and_the_examples_regions() -> None:
    fitted(make_subject())
    examples, masks = EXAMPLES
    assert set(masks.by_name) == {"fido", "sky"}
    assert torch.equal(examples[0].regions["mask.concept.0"], masks.get("fido")[0])


def test_the_users_own_mask_wins_picture_by_picture() -> None:
    right = torch.zeros(1, 32, 32)
    right[..., 16:] = 1.0
    subject = replace(make_subject(), masks={"fido": (right, None)})
    fitted(subject)
    first, second = (e.regions["mask.concept.0"] for e in EXAMPLES[0])
    assert torch.equal(first, right)
    assert torch.equal(second, right.flip(-1))


def test_a_mask_follows_a_picture_that_is_cropped() -> None:
    """A mask over the whole wide picture is scaled and cropped with it."""

    class Whole(Technique):
        id = "test.whole"

        @hookimpl
        def mask(self, query: MaskQuery) -> Masks:
            left = torch.zeros(1, 1, 32, 64)
            left[..., :32] = 1.0  # the left half of the picture as it was given
            return Masks({"fido": left})

    subject = replace(make_subject(images=1), images=(make_picture(0, (32, 64)),))
    STEPS.clear()
    recipe = make_recipe([Whole(), Spy(), Probe()], Phase("p", 1, lr={"*": 0.0}))
    fit(recipe, subject, open_backbone("tiny"))
    region = EXAMPLES[0][0].regions["mask.concept.0"]
    assert region.shape == (1, 32, 32)
    assert float(region[..., :16].min()) == 1.0
    assert float(region[..., 16:].max()) == 0.0
