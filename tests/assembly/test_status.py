"""A system's status follows from what is installed and recorded."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pcs_core.assembly import system_hash, system_status, systems
from pcs_core.catalogue import Catalogue

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
from dataclasses import dataclass, field
import json, pathlib

@dataclass(frozen=True)
class System:
    id: str
    name: str = "Known"
    ref: str = "7"
    year: int = 2022
    framework: str = "TTF"
    scope: tuple = ("Object",)
    backbones: tuple = ("LDM",)
    techniques: tuple = ("learnable-token",)
    paper: str = "arXiv:2"

def systems():
    return [System("known"), System("good"), System("missing")]

def weights():
    return "these"

def evidence():
    return json.loads(pathlib.Path(__file__).with_name("evidence.json").read_text())
"""
MISSING = GOOD.replace('"good"', '"missing"').replace("toy.wrap", "toy.nowhere")


@pytest.fixture
def catalogue(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Catalogue:
    monkeypatch.delitem(sys.modules, "x_status_facts", raising=False)
    (tmp_path / "x_status_facts.py").write_text(FACTS, encoding="utf-8")
    (tmp_path / "evidence.json").write_text("{}", encoding="utf-8")
    return make(
        {"good": GOOD, "missing": MISSING, "mine": GOOD.replace('"good"', '"mine"')},
        {
            "datasets": {
                "catalogue.systems": "x_status_facts:systems",
                "evidence": "x_status_facts:evidence",
                "mini.weights": "x_status_facts:weights",
            },
            "checks": {"good": "x_toys:check"},
        },
    )


def test_planned_without_a_recipe_that_loads(catalogue: Catalogue) -> None:
    assert system_status("known", catalogue, {}) == "planned"
    assert system_status("missing", catalogue, {}) == "planned"


def test_ready_needs_check_and_evidence_of_this_recipe(
    catalogue: Catalogue, tmp_path: Path
) -> None:
    run = {"recipe_hash": system_hash("good", catalogue=catalogue), "backbone": "mini"}
    run["weights"] = "these"
    assert system_status("good", catalogue, {}) == "recipe"
    assert system_status("good", catalogue, {"good": {**run, "weights": "others"}}) == "recipe"
    assert system_status("good", catalogue, {"good": run}) == "ready"
    assert system_status("good", catalogue, {"good": {**run, "recipe_hash": "0"}}) == "recipe"
    assert system_status("good", catalogue, {"good": {**run, "backbone": "broken"}}) == "recipe"
    assert system_status("good", catalogue, {"good": None}) == "recipe"
    unchecked = {**run, "recipe_hash": system_hash("mine", catalogue=catalogue)}
    assert system_status("mine", catalogue, {"mine": unchecked}) == "recipe"
    file = tmp_path / "recipes" / "good.toml"
    file.write_text(file.read_text().replace("rank = 2", "rank = 3"), encoding="utf-8")
    assert system_status("good", catalogue, {"good": run}) == "recipe"


def test_rows_of_known_systems_and_of_others(catalogue: Catalogue, tmp_path: Path) -> None:
    rows = {row.id: row for row in systems(catalogue)}
    assert list(rows) == ["known", "good", "missing", "mine"]
    known, good, mine = rows["known"], rows["good"], rows["mine"]
    assert (known.name, known.ref, known.year, known.paper) == ("Known", "7", 2022, "arXiv:2")
    assert (known.status, known.uses, known.backbones) == ("planned", (), ("LDM",))
    assert (good.techniques, good.uses) == (("learnable-token",), ("toy.shift", "toy.wrap"))
    assert (good.status, good.backbones, good.name) == ("recipe", ("sd", "mini"), "Known")
    assert (mine.name, mine.ref, mine.year, mine.paper) == ("Good", "", None, "arXiv:1")
    assert mine.techniques == ("shift", "offset")
    evidence = f'{{"good": {{"recipe_hash": "{system_hash("good", catalogue=catalogue)}"}}}}'
    (tmp_path / "evidence.json").write_text(evidence, encoding="utf-8")
    assert {row.id: row.status for row in systems(catalogue)}["good"] == "ready"


def test_without_facts_only_recipes_are_listed(make: Make) -> None:
    (row,) = systems(make({"good": GOOD}))
    assert (row.id, row.status) == ("good", "recipe")
