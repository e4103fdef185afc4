"""What differs from a recipe on a backbone: for systems and backbones that exist, and nothing that repeats."""

from __future__ import annotations

import pytest

from pcs_cli.provenance import numbers
from pcs_core.assembly import load_recipe
from pcs_core.catalogue import Catalogue, catalogue

TUNED = catalogue().tuned_systems()


def unknown(tuned: list[tuple[str, str]], catalogue: Catalogue) -> list[str]:
    """Return a line for each file of differences that no recipe and no backbone would ever read."""
    targets = {*catalogue.ids("backbones"), *catalogue.ids("profiles")}
    recipes = catalogue.recipe_files()
    lines = [f"{target}/{id}: no recipe {id!r}" for target, id in tuned if id not in recipes]
    return lines + [
        f"{target}/{id}: no backbone or family {target!r}"
        for target, id in tuned
        if target not in targets
    ]


def test_they_are_of_systems_and_backbones_that_exist() -> None:
    assert TUNED
    assert unknown(TUNED, catalogue()) == []
    assert unknown([("mini", "dreambooht"), ("mnii", "dreambooth")], catalogue()) == [
        "mini/dreambooht: no recipe 'dreambooht'",
        "mnii/dreambooth: no backbone or family 'mnii'",
    ]


@pytest.mark.parametrize(("target", "id"), TUNED)
def test_they_repeat_nothing(target: str, id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the recipe or the backbone's profile says already is not said again."""
    tuned = numbers(load_recipe(id, backbone=target))
    monkeypatch.setattr(catalogue(), "_tuning", {})
    before = {n.name: n.value for n in numbers(load_recipe(id, backbone=target))}
    differences = [n for n in tuned if n.source == "tuning"]
    assert differences
    assert [n.name for n in differences if before.get(n.name, ...) == n.value] == []
