"""Recipes that load: what they become, and which layer wins."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pcs_core.assembly import load_recipe, recipe_from_document
from pcs_core.catalogue import Catalogue

Make = Callable[..., Catalogue]

BASE = """\
    # a comment
    [recipe]
    id = "base"
    name = "Base"
    paper = "arXiv:0000.00000"
    scope = ["object"]
    framework = "hybrid"
    backbones = ["sd", "mini"]
    notes = '''
    [[use]]
    not = "a table"
    '''

    [[use]]
    technique = "toy.shift"
    rank = 8
    parts = [
        "k",
    ]

    [[use]]
    technique = "toy.shift"
    name = "second.shift"

    [[phase]]
    name = "first"
    steps = 100
    lr = 5e-4
    train = ["toy.shift/*"]

    [[phase]]
    name = "joint"
    steps = 50
    batch = { subject = 1, prior = 2 }
    lr = { "toy.shift/*" = 1e-3, "*" = 1 }
    betas = [0.8, 0.9]

    [fit]
    cycles = 2

    [sample]
    steps = 20
    scale = 5

    [backbone.mini.use."toy.shift"]
    alpha = 3

    [backbone.mini.phase.joint]
    steps = 5

    [backbone.mini.sample]
    scheduler = "euler"

    [backbone.big]
    phase = [{ name = "only", steps = 7 }]

    [[backbone.same.phase]]
    name = "first"
    steps = 9

    [[backbone.same.phase]]
    name = "joint"
    clip = 1.0
"""


def test_a_recipe_becomes_techniques_phases_and_numbers(make: Make) -> None:
    recipe = load_recipe("base", catalogue=make({"base": BASE}))
    assert (recipe.id, recipe.name, recipe.framework) == ("base", "Base", "hybrid")
    assert recipe.scope == ("object",)
    assert recipe.backbones == ("sd", "mini")
    assert [use.name for use in recipe.uses] == ["toy.shift", "second.shift"]
    assert recipe.uses[0].technique.settings() == {
        "rank": 8,
        "alpha": 1.0,
        "parts": ["k"],
        "label": None,
    }
    assert recipe.uses[1].technique.settings()["rank"] == 4
    first, joint = recipe.phases
    assert (first.name, first.steps, first.batch) == ("first", 100, {"subject": 1})
    assert (first.lr, first.train) == ({"*": 5e-4}, ("toy.shift/*",))
    assert joint.batch == {"subject": 1, "prior": 2}
    assert joint.lr == {"toy.shift/*": 1e-3, "*": 1.0}
    assert joint.betas == (0.8, 0.9)
    assert recipe.cycles == 2
    assert (recipe.sample.steps, recipe.sample.scale, recipe.sample.scheduler) == (20, 5.0, "ddim")
    assert recipe.source.startswith("# a comment")


def test_a_backbone_table_applies_to_that_backbone_alone(make: Make) -> None:
    catalogue = make({"base": BASE})
    plain = load_recipe("base", backbone="elsewhere/model", catalogue=catalogue)
    assert plain.document == load_recipe("base", catalogue=catalogue).document
    mini = load_recipe("base", backbone="mini", catalogue=catalogue)
    assert mini.uses[0].technique.settings() | {} == {
        "rank": 8,
        "alpha": 3.0,
        "parts": ["k"],
        "label": None,
    }
    assert [p.steps for p in mini.phases] == [100, 5]
    assert mini.phases[1].batch == {"subject": 1, "prior": 2}
    assert (mini.sample.scheduler, mini.sample.steps) == ("euler", 20)
    assert mini.hash != plain.hash


def test_a_list_of_backbone_phases_replaces_or_merges_equal_names(make: Make) -> None:
    catalogue = make({"base": BASE})
    big = load_recipe("base", backbone="big", catalogue=catalogue)
    assert [(p.name, p.steps) for p in big.phases] == [("only", 7)]
    same = load_recipe("base", backbone="same", catalogue=catalogue)
    assert [(p.name, p.steps, p.clip) for p in same.phases] == [("first", 9, 0), ("joint", 50, 1)]


def test_overrides_come_last(make: Make) -> None:
    recipe = load_recipe(
        "base",
        backbone="mini",
        overrides=[
            "toy.shift.rank=2",
            "second.shift.parts=['v']",
            "second.shift.label = plain words",
            "joint.steps=6",
            "joint.lr={'*'=0.5}",
            "sample.scale=0",
            "sample.negative=",
            "fit.cycles=3",
        ],
        catalogue=make({"base": BASE}),
    )
    assert recipe.uses[0].technique.settings()["rank"] == 2
    assert recipe.uses[0].technique.settings()["alpha"] == 3.0
    second = recipe.uses[1].technique.settings()
    assert (second["parts"], second["label"]) == (["v"], "plain words")
    assert (recipe.phases[1].steps, recipe.phases[1].lr) == (6, {"*": 0.5})
    assert (recipe.sample.scale, recipe.sample.negative, recipe.cycles) == (0.0, "", 3)


def test_a_resolved_recipe_passes_and_takes_overrides(make: Make) -> None:
    catalogue = make({"base": BASE})
    recipe = load_recipe("base", backbone="mini", catalogue=catalogue)
    assert load_recipe(recipe, backbone="big", catalogue=catalogue) is recipe
    changed = load_recipe(recipe, overrides=["first.steps=1"], catalogue=catalogue)
    assert [p.steps for p in changed.phases] == [1, 5]
    assert changed.uses[0].technique.settings() == recipe.uses[0].technique.settings()
    assert changed.source == recipe.source


def test_a_document_gives_the_same_recipe_again(make: Make) -> None:
    catalogue = make({"base": BASE})
    recipe = load_recipe("base", backbone="mini", catalogue=catalogue)
    document = json.loads(json.dumps(recipe.document))
    again = recipe_from_document(document, catalogue=catalogue, source=recipe.source)
    assert again.document == recipe.document
    assert again.hash == recipe.hash
    assert (again.phases, again.sample, again.cycles) == (
        recipe.phases,
        recipe.sample,
        recipe.cycles,
    )
    assert [u.name for u in again.uses] == [u.name for u in recipe.uses]
    assert again.uses[0].technique is not recipe.uses[0].technique


def test_a_path_loads_like_a_system(make: Make, tmp_path: Path) -> None:
    catalogue = make({"base": BASE})
    file = tmp_path / "recipes" / "base.toml"
    assert (
        load_recipe(file, catalogue=catalogue).hash == load_recipe("base", catalogue=catalogue).hash
    )
    assert load_recipe(str(file), catalogue=catalogue).path == str(file)
    windows = tmp_path / "windows.toml"
    windows.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    assert load_recipe(windows, catalogue=catalogue).uses[0].technique.settings()["rank"] == 8


CHILD = """\
    [recipe]
    id = "child"
    extends = "base"
    notes = ""

    [[use]]
    technique = "toy.wrap"

    [[use]]
    name = "second.shift"
    rank = 16

    [sample]
    scale = 1
"""


def test_extends_merges_uses_by_name_and_keeps_phases(make: Make) -> None:
    recipe = load_recipe("child", catalogue=make({"base": BASE, "child": CHILD}))
    assert (recipe.id, recipe.name) == ("child", "Base")
    assert "extends" not in recipe.document["recipe"]
    assert [u.name for u in recipe.uses] == ["toy.shift", "second.shift", "toy.wrap"]
    assert recipe.uses[0].technique.settings()["rank"] == 8
    assert recipe.uses[1].technique.settings()["rank"] == 16
    assert [p.name for p in recipe.phases] == ["first", "joint"]
    assert (recipe.sample.steps, recipe.sample.scale) == (20, 1.0)


def test_extends_replaces_phases_and_what_the_parent_said_about_them(make: Make) -> None:
    child = CHILD + '\n    [[phase]]\n    name = "other"\n    steps = 3\n'
    catalogue = make({"base": BASE, "child": child})
    recipe = load_recipe("child", backbone="mini", catalogue=catalogue)
    assert [(p.name, p.steps) for p in recipe.phases] == [("other", 3)]
    assert recipe.uses[0].technique.settings()["alpha"] == 3.0
    big = load_recipe("child", backbone="big", catalogue=catalogue)
    assert [p.name for p in big.phases] == ["other"]


def test_extends_replaces_a_use_of_another_technique_in_its_place(make: Make) -> None:
    child = CHILD.replace('name = "second.shift"\n    rank = 16', 'name = "toy.shift"\n    TECH')
    child = child.replace("TECH", 'technique = "toy.wrap"\n    weight = 0.25').replace(
        '[[use]]\n    technique = "toy.wrap"\n\n', "", 1
    )
    base = BASE.split("[backbone.mini.use")[0]
    recipe = load_recipe("child", catalogue=make({"base": base, "child": child}))
    assert [(u.name, u.technique.id) for u in recipe.uses] == [
        ("toy.shift", "toy.wrap"),
        ("second.shift", "toy.shift"),
    ]


def test_extends_takes_a_file_beside_the_recipe(make: Make, tmp_path: Path) -> None:
    catalogue = make({"base": BASE})
    file = tmp_path / "recipes" / "mine.toml"
    file.write_text('[recipe]\nid = "mine"\nextends = "base.toml"\n', encoding="utf-8")
    assert len(load_recipe(file, catalogue=catalogue).uses) == 2


def test_the_hash_is_of_meaning(make: Make, tmp_path: Path) -> None:
    catalogue = make({"base": BASE, "child": CHILD})
    before = load_recipe("base", catalogue=catalogue).hash
    file = tmp_path / "recipes" / "base.toml"
    file.write_text(file.read_text().replace("# a comment", "# another"), encoding="utf-8")
    assert load_recipe("base", catalogue=catalogue).hash == before
    file.write_text(file.read_text().replace("rank = 8", "rank = 9"), encoding="utf-8")
    assert load_recipe("base", catalogue=catalogue).hash != before


def test_written_defaults_and_absent_ones_have_one_hash(make: Make) -> None:
    catalogue = make(
        {
            "short": '[recipe]\nid = "short"\n[[use]]\ntechnique = "toy.shift"\n',
            "long": '[recipe]\nid = "long"\n[[use]]\ntechnique = "toy.shift"\nalpha = 1\n',
        }
    )
    short = load_recipe("short", catalogue=catalogue)
    long = load_recipe("long", catalogue=catalogue)
    assert short.document["use"] == long.document["use"]


@pytest.mark.parametrize("steps", [0, 1])
def test_bounds_include_their_ends(make: Make, steps: int) -> None:
    recipe = load_recipe("base", overrides=[f"joint.steps={steps}"], catalogue=make({"base": BASE}))
    assert recipe.phases[1].steps == steps
