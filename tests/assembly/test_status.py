"""A system's status follows from what is installed and recorded."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pcs_core.assembly import load_recipe
from pcs_core.catalogue import Catalogue
from pcs_core.catalogue.discovery import FoundPlugin
from pcs_core.catalogue.holdings import Holdings
from pcs_core.errors import RecipeError, UnknownNameError
from pcs_evidence import system_status, systems
from pcs_evidence.evidence import (
    Effect,
    Evidence,
    Run,
    read_evidence,
    recipe_code_hash,
    recipe_hash,
)
from pcs_evidence.status import replaced, standings

Make = Callable[..., Catalogue]

GOOD = """
[recipe]
id = "good"
name = "Good"
scope = ["object"]
backbones = ["sd", "mini"]
paper = "arXiv:1"
[[use]]
technique = "toy.shift"
[[use]]
technique = "toy.wrap"
[backbone.mini.use."toy.shift"]
rank = 2
[backbone.broken.use."toy.shift"]
rank = 0
"""
FACTS = """
def weights():
    return "these"
"""
KNOWN = """
[recipe]
id = "known"
name = "Known"
survey = 7
year = 2022
scope = ["object"]
framework = "TTF"
published_on = ["LDM"]
techniques = ["learnable-token"]
paper = "arXiv:2"
"""
MISSING = GOOD.replace('"good"', '"missing"').replace("toy.wrap", "toy.nowhere")


@pytest.fixture
def catalogue(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Catalogue:
    monkeypatch.delitem(sys.modules, "x_status_facts", raising=False)
    (tmp_path / "x_status_facts.py").write_text(FACTS, encoding="utf-8")
    return make(
        {
            "known": KNOWN,
            "good": GOOD,
            "missing": MISSING,
            "mine": GOOD.replace('"good"', '"mine"'),
        },
        {
            "datasets": {
                "mini.weights": "x_status_facts:weights",
            }
        },
    )


def test_planned_without_a_recipe_that_loads(catalogue: Catalogue) -> None:
    assert system_status("known", catalogue, {}) == "planned"
    assert system_status("missing", catalogue, {}) == "planned"


RUN = Run(suite="some", subjects=("a", "b"), pictures=8)
EFFECT = Effect(metric="m", mean=0.3, low=0.1, high=0.5, minimum=0.2, subjects=2, pictures=8)


def evidence(catalogue: Catalogue, **changes: Any) -> Evidence:
    """Return evidence of the system "good" on "mini" that makes it ready, changed."""
    recipe = load_recipe("good", backbone="mini", catalogue=catalogue)
    whole: dict[str, Any] = {
        "system": "good",
        "backbone": "mini",
        "recipe": recipe_hash(recipe),
        "code": recipe_code_hash(recipe),
        "weights": "these",
        "checked": True,
        "run": RUN,
        "effect": EFFECT,
    }
    return Evidence(**{**whole, **changes})


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, "ready"),
        ({"effect": None}, "runs"),
        ({"effect": EFFECT.model_copy(update={"low": -0.01})}, "runs"),
        ({"effect": EFFECT.model_copy(update={"low": None})}, "runs"),
        ({"effect": EFFECT.model_copy(update={"mean": 0.19})}, "runs"),
        ({"run": None}, "checked"),
        ({"checked": False}, "loads"),
        ({"recipe": "another"}, "loads"),
        ({"code": "another"}, "loads"),
        ({"weights": "earlier"}, "ready"),
    ],
)
def test_each_step_needs_those_before_it(
    catalogue: Catalogue, changes: dict[str, Any], status: str
) -> None:
    observed = {"good": {"mini": evidence(catalogue, **changes)}}
    assert system_status("good", catalogue, {}) == "loads"
    assert system_status("good", catalogue, observed) == status


def test_the_furthest_backbone_counts(catalogue: Catalogue) -> None:
    recipe = load_recipe("good", backbone="other", catalogue=catalogue)
    less = evidence(catalogue, backbone="other", recipe=recipe_hash(recipe), run=None)
    both = {"good": {"mini": evidence(catalogue), "other": less}}
    assert system_status("good", catalogue, both) == "ready"
    on = standings("good", catalogue, both["good"])
    assert {id: standing.status for id, standing in on.items()} == {
        "mini": "ready",
        "other": "checked",
    }
    nowhere = evidence(catalogue, backbone="broken")  # its table makes no recipe
    assert standings("good", catalogue, {"broken": nowhere}) == {}


def test_earlier_weights_are_shown_and_count(catalogue: Catalogue) -> None:
    (standing,) = standings(
        "good", catalogue, {"mini": evidence(catalogue, weights="earlier")}
    ).values()
    assert (standing.status, standing.older) == ("ready", "earlier")


def test_changed_numbers_and_uses_make_it_outdated(catalogue: Catalogue, tmp_path: Path) -> None:
    observed = {"good": {"mini": evidence(catalogue)}}
    file = tmp_path / "recipes" / "good.toml"
    text = file.read_text()
    file.write_text(text.replace('paper = "arXiv:1"', 'paper = "arXiv:9"'), encoding="utf-8")
    assert system_status("good", catalogue, observed) == "ready"  # a name is no number
    file.write_text(text.replace("rank = 2", "rank = 3"), encoding="utf-8")
    (standing,) = standings("good", catalogue, observed["good"]).values()
    assert (standing.status, standing.outdated) == ("loads", "the recipe changed since")


def test_an_overlay_that_leaves_a_use_out_is_another_mechanism(catalogue: Catalogue) -> None:
    plain = load_recipe("good", catalogue=catalogue)
    tuned = load_recipe("good", backbone="mini", catalogue=catalogue)
    assert replaced(plain, tuned) == ()
    fewer = replace(tuned, uses=tuned.uses[:1])
    assert replaced(plain, fewer) == ("toy.wrap",)


def test_files_are_read_by_their_place(catalogue: Catalogue, tmp_path: Path) -> None:
    folder = tmp_path / "recipes" / "evidence" / "mini"
    folder.mkdir(parents=True)
    file = folder / "good.json"
    file.write_text(evidence(catalogue).render(), encoding="utf-8")
    again = Catalogue(catalogue_holdings(catalogue, {("mini", "good"): file}))
    assert read_evidence(again)["good"]["mini"] == evidence(catalogue)
    file.write_text(evidence(catalogue, backbone="sd").render(), encoding="utf-8")
    with pytest.raises(RecipeError, match=r"evidence/mini/good.json.*'sd'"):
        read_evidence(again)
    file.write_text('{"system": "good"}', encoding="utf-8")
    with pytest.raises(RecipeError, match=r"evidence/mini/good.json: no evidence"):
        read_evidence(again)


def catalogue_holdings(catalogue: Catalogue, files: dict[tuple[str, str], Path]) -> list[Holdings]:
    """Return what a plugin that holds only these evidence files answers."""
    plugin = FoundPlugin("x", "x", "1", "x", None)
    return [Holdings(plugin, evidence=files)]


def test_rows_of_surveyed_systems_come_first(catalogue: Catalogue) -> None:
    rows = {row.id: row for row in systems(catalogue)}
    assert list(rows) == ["known", "good", "mine", "missing"]
    known, good = rows["known"], rows["good"]
    assert (known.name, known.ref, known.year, known.paper) == ("Known", "7", 2022, "arXiv:2")
    assert (known.status, known.uses, known.backbones) == ("planned", (), ("LDM",))
    assert known.techniques == ("learnable-token",)
    assert (good.techniques, good.uses) == (("shift", "offset"), ("toy.shift", "toy.wrap"))
    assert (good.status, good.backbones, good.name) == ("loads", ("sd", "mini"), "Good")
    assert (good.ref, good.year, good.paper) == ("", None, "arXiv:1")
    assert good.on == {}
    assert rows["missing"].status == "planned"


def test_a_system_of_which_only_facts_are_known_is_planned(catalogue: Catalogue) -> None:
    with pytest.raises(UnknownNameError, match="'known' is planned, without a recipe"):
        load_recipe("known", catalogue=catalogue)
