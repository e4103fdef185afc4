"""Masks and key points that no technique of a recipe reads are said to change nothing."""

from __future__ import annotations

import logging

import pytest
import torch

from pcs_core import fit, open_backbone
from pcs_core.assembly import load_recipe
from pcs_core.data import Concept, Subject
from pcs_engine.unread import reads_masks, unread_marks


def marked(concepts: int = 1) -> Subject:
    named = tuple(Concept(f"dog{k}", f"<dog{k}>", "dog") for k in range(concepts))
    return Subject(
        name="s",
        concepts=named,
        images=(torch.rand(3, 32, 32),) * 2,
        masks={c.name: (torch.ones(1, 32, 32), None) for c in named},
        files=("a.png", "b.png"),
        extra=({}, {"points": [[0.5, 0.5]] * 5}),
    )


@pytest.mark.parametrize(
    ("system", "reads"),
    [
        ("textual-inversion", False),
        ("lora-dreambooth", False),
        ("perfusion", True),
        ("break-a-scene", True),
        ("fastcomposer", True),
    ],
)
def test_a_recipe_reads_masks_or_not(system: str, reads: bool) -> None:
    assert reads_masks(load_recipe(system, backbone="mini")) is reads


def test_what_is_unread_is_named() -> None:
    masks, points = unread_marks(load_recipe("lora-dreambooth", backbone="mini"), marked())
    assert masks.startswith("subject 's': the masks of a.png change nothing")
    assert "the points of b.png change nothing but the crop" in points
    (points,) = unread_marks(load_recipe("perfusion", backbone="mini"), marked())
    assert "points" in points


def test_masks_of_several_concepts_say_which_picture_shows_which() -> None:
    said = unread_marks(load_recipe("lora-dreambooth", backbone="mini"), marked(2))
    assert not any("masks" in line for line in said)


def test_a_fit_in_python_says_it_too(caplog: pytest.LogCaptureFixture) -> None:
    recipe = load_recipe("textual-inversion", backbone="tiny", overrides=["token.steps=0"])
    with caplog.at_level(logging.WARNING):
        fit(recipe, marked(), open_backbone("tiny"), seed=0)
    assert "the masks of a.png change nothing" in caplog.text
