"""What a pre-training's rows lose, as often as the settings say, and each subject for itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pcs_core import Technique, hookimpl, load_recipe, pretrain, recipe_from_document
from pcs_core.backbone import Backbone
from pcs_core.data import Record
from pcs_testing import make_picture

SEEN: list[Any] = []


class Spy(Technique):
    """Keeps each step; the recipe names it by what it stands in for."""

    id = "test.dropped"

    @hookimpl(tryfirst=True)
    def regularize(self, step: Any) -> None:
        SEEN.append(step)


class Records:
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Record:
        pictures = tuple((make_picture(10 * index + k),) for k in (1, 2))
        half = torch.zeros(1, 32, 32)
        half[..., :16] = 1.0
        masks = (half, half.flip(-1))
        return Record(
            make_picture(index), "a photo of a dog and a cat", ("dog", "cat"), pictures, masks
        )


def steps(backbone: Backbone, **shares: float) -> list[Any]:
    from dataclasses import replace

    from pcs_core.data import Use

    recipe = recipe_from_document(
        {
            "recipe": {"id": "made-for-a-test", "framework": "PTA"},
            "use": [
                {"technique": "tokens.rare", "identifier": ""},
                {"technique": "encoders.image", "model": "tiny.image", "slots": 3},
                {"technique": "fusion.token_output", "hidden": 8},
                {
                    "technique": "data.condition_dropout",
                    "text": 0.0,
                    "streams": 0.0,
                    "both": 0.0,
                    **shares,
                },
            ],
            "pretrain": [{"name": "p", "steps": 3, "batch": 16, "lr": 1e-3}],
            "phase": [],
            "fit": {},
            "sample": {},
        }
    )
    SEEN.clear()
    pretrain(replace(recipe, uses=(*recipe.uses, Use(Spy.id, Spy()))), Records(), backbone)
    return list(SEEN)


def test_a_subject_that_does_not_appear_is_plain_text_and_its_reference_is_not_read(
    backbone: Backbone,
) -> None:
    gone = 0
    for step in steps(backbone, subjects=0.5):
        assert all(caption == "a photo of a dog and a cat" for caption in step.batch.captions)
        for slot in (0, 1):
            feature = step.batch.features["image"][:, slot].abs().sum(1)
            said = (step.cond.spans[f"concept.{slot}"] >= 0).any(1)
            assert torch.equal(said, feature > 0)
            gone += int((~said).sum())
    assert 30 <= gone <= 66, "about half of 96"


def test_without_a_share_every_subject_appears(backbone: Backbone) -> None:
    for step in steps(backbone):
        assert bool((step.batch.features["image"][:, :2].abs().sum(2) > 0).all())
        assert bool((step.cond.spans["concept.1"] >= 0).any(1).all())


@pytest.mark.parametrize("name", ["text", "streams", "both"])
def test_a_row_loses_what_the_share_names(backbone: Backbone, name: str) -> None:
    lost = {"text": 0, "streams": 0}
    for step in steps(backbone, **{name: 0.5}):
        lost["text"] += sum(caption == "" for caption in step.batch.captions)
        lost["streams"] += int((step.batch.features["image"].abs().sum((1, 2)) == 0).sum())
    for what, count in lost.items():
        hit = name in (what, "both")
        assert (12 <= count <= 36) if hit else count == 0, (what, count)


@pytest.mark.parametrize(
    ("system", "shares"),
    [
        ("ip-adapter", {"text": 0.05, "streams": 0.05, "both": 0.05, "subjects": 0.0}),
        ("instantid", {"text": 0.05, "streams": 0.05, "both": 0.05, "subjects": 0.0}),
        ("fastcomposer", {"text": 0.0, "streams": 0.0, "both": 0.1, "subjects": 0.1}),
    ],
)
def test_published_shares(system: str, shares: dict[str, float]) -> None:
    (use,) = (u for u in load_recipe(system).uses if u.name == "data.condition_dropout")
    settings: Any = use.technique.settings()
    assert {name: settings[name] for name in shares} == shares
