"""Recipes of earlier versions: today's ids of techniques and roles, uses under the names they had."""

from __future__ import annotations

from pcs_core import recipe_from_document
from pcs_core.assembly.stored import with_names_of_today
from pcs_core.catalogue import catalogue

DOCUMENT = {
    "recipe": {"id": "mine"},
    "use": [{"technique": "three_d.canvas", "size": 16}],
    "phase": [
        {"name": "render", "steps": 1, "batch": {"canvas": 2}, "train": ["three_d.canvas/*"]},
    ],
}


def test_a_stored_recipe_keeps_the_names_of_its_tensors() -> None:
    recipe = recipe_from_document(DOCUMENT)
    (use,), (phase,) = recipe.uses, recipe.phases
    assert (use.technique.id, use.name) == ("three_d.renderable", "three_d.canvas")
    assert phase.batch == {"rendered": 2}
    assert phase.train == ("three_d.canvas/*",)


def test_what_is_of_today_is_left_as_it_is() -> None:
    document = {"use": [{"technique": "three_d.renderable", "name": "x"}], "phase": [{"batch": 4}]}
    assert with_names_of_today(document, catalogue()) == document


def test_a_broken_document_is_left_to_its_reader() -> None:
    document = {"use": "none", "phase": [3, {"batch": {"subject": 1}}]}
    assert with_names_of_today(document, catalogue()) == document
