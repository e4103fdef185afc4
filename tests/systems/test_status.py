"""What `pcs systems` says, recomputed from what is installed."""

from __future__ import annotations

import json

import pytest

from pcs_core.assembly import load_recipe, system_hash
from pcs_core.catalogue import catalogue
from pcs_core.cli.main import main
from pcs_core.errors import PcsError


def recomputed(system: str) -> str:
    """Return the status, from the parts it is made of."""
    held = catalogue()
    if system not in held.recipe_files():
        return "planned"
    evidence = held.get("datasets", "evidence")().get(system)
    try:
        load_recipe(system, backbone=evidence["backbone"] if evidence else None)
    except PcsError:
        return "planned"
    checked = system in held.ids("checks")
    run = evidence is not None and evidence["recipe_hash"] == system_hash(system)
    if run and (weights := f"{evidence['backbone']}.weights") in held.ids("datasets"):
        run = evidence.get("weights") == held.get("datasets", weights)()
    return "ready" if checked and run else "recipe"


def test_all_systems_are_listed_with_their_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["systems", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) >= 180
    keys = {"id", "name", "ref", "framework", "scope", "techniques", "uses", "backbones", "status"}
    assert all(keys <= set(row) for row in rows)
    assert {r["id"]: r["status"] for r in rows} == {r["id"]: recomputed(r["id"]) for r in rows}


def test_the_recorded_runs_are_of_the_present_recipes() -> None:
    evidence = catalogue().get("datasets", "evidence")()
    for system, entry in evidence.items():
        assert entry["recipe_hash"] == system_hash(system), (
            f"{system}: the recipe changed since its run was recorded: run scripts/results.py"
        )
