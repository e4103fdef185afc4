"""Which picture shows which concept: one rule for captions, features and losses."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pcs_core import fit, open_backbone
from pcs_core.assembly import load_recipe
from pcs_core.data import Concept, Masks, Subject
from pcs_core.errors import InputError
from pcs_engine.prepare import Answers, references
from pcs_engine.shown import said_concepts, shown_concepts

DOG, BALL = Concept("dog", "<dog>", "dog"), Concept("ball", "<ball>", "red ball")
FULL, EMPTY = torch.ones(1, 8, 8), torch.zeros(1, 8, 8)


def subject(count: int = 1, **said: Any) -> Subject:
    return Subject("s", (DOG, BALL), (torch.rand(3, 8, 8),) * count, **said)


def captions_of(given: Subject) -> list[tuple[str, ...]]:
    base = references(given, 0, (8, 8), Masks())
    return [e.captions for e in Answers(given, 0, Masks(), base, []).united().examples]


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ({}, "dog ball"),
        ({"masks": {"dog": (FULL,)}}, "dog"),
        ({"masks": {"dog": (EMPTY,), "ball": (FULL,)}}, "ball"),
        ({"masks": {"dog": (FULL,), "ball": (FULL,)}}, "dog ball"),
        ({"captions": ("<ball> on grass",)}, "ball"),
        ({"captions": ("a Dog, with a red ball.",)}, "dog ball"),
        ({"captions": ("a red dog",)}, "dog"),
        ({"captions": ("on grass",)}, "dog ball"),
        ({"captions": ("<ball> on grass",), "masks": {"dog": (FULL,)}}, "dog ball"),
        ({"extra": ({"concepts": ["ball"]},), "masks": {"dog": (FULL,)}}, "ball"),
    ],
)
def test_what_a_picture_shows(said: dict[str, Any], shown: str) -> None:
    assert " ".join(c.name for c in shown_concepts(subject(**said), 0)) == shown
    (example,) = references(subject(**said), 0, (8, 8), Masks())
    assert " ".join(example.concepts) == shown


def test_nothing_said_is_known_as_such() -> None:
    assert said_concepts(subject(), 0) == ()
    assert said_concepts(Subject("s", (DOG,), (torch.rand(3, 8, 8),)), 0) == (DOG,)


def test_a_picture_without_a_caption_is_called_by_what_it_shows() -> None:
    given = subject(3, masks={"dog": (FULL, None, None), "ball": (None, FULL, None)})
    assert captions_of(given) == [
        ("a photo of <dog>",),
        ("a photo of <ball>",),
        ("a photo of <dog> and <ball>",),
    ]


def test_a_caption_without_a_token_gets_that_of_what_it_shows() -> None:
    masks = {"ball": (FULL, None), "dog": (None, None)}
    given = subject(2, masks=masks, captions=("on grass", "my dog at home"))
    assert captions_of(given) == [("<ball>, on grass",), ("my <dog> at home",)]


def test_a_concept_that_no_picture_shows_is_refused() -> None:
    recipe = load_recipe("textual-inversion", backbone="tiny", overrides=["token.steps=0"])
    given = subject(2, captions=("<dog> here", "a photo of <dog>"))
    with pytest.raises(InputError, match=r"no picture shows 'ball': name it in a caption"):
        fit(recipe, given, open_backbone("tiny"), seed=0)
